"""From the environment to the settings: rows are read one by one, rules are asked, and all problems are raised at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from shared.errors import SettingsError
from shared.id_fields import fields_read
from shared.own_keys import collisions
from shared.setting_parsers import schema
from shared.setting_rows import REQUIRED, rows_of
from shared.setting_rules import (
    RULES,
    STREAM_RULES,
    Rule,
    budget_of,
    dead_letter_stream_of,
    differing_retention,
    timeout_ms_of,
)
from shared.settings import (
    DEFAULT_JSON_SCHEMA,
    ITEM_KEYS,
    ROWS,
    TRACE_FIELDS,
    EntraSettings,
    RedisSettings,
    Settings,
    StreamSettings,
)

MOST_PARTITIONS: Final = 128


class Reading:
    """The values of the variables, each parsed when it is first asked for; what is wrong with them is in ``problems``."""

    def __init__(self, environment: Mapping[str, str], labels: Mapping[str, str] | None = None) -> None:
        """``labels``: what a variable is called in a problem, where that is not its name."""
        self.environment = environment
        self.problems: list[str] = []
        self._labels = labels or {}
        self._values: dict[str, Any] = {}
        self._bad: set[str] = set()

    def of_item(self, environment: Mapping[str, str], labels: Mapping[str, str]) -> Reading:
        """The reading of one item of STREAMS; what no item can say is taken over as it was parsed."""
        of_item = Reading(environment, labels)
        of_item._values = {variable: value for variable, value in self._values.items() if not ROWS[variable].item_key}
        of_item._bad = self._bad & of_item._values.keys()
        return of_item

    def __getitem__(self, variable: str) -> Any:
        """The parsed value; a bad one's default, None if it has none, until the problems are raised."""
        if variable not in self._values:
            self._values[variable] = self._read(variable)
        return self._values[variable]

    def _read(self, variable: str) -> Any:
        row = ROWS[variable]
        written = self.environment.get(variable, "")
        text = (written if row.is_verbatim else written.strip()) or row.default
        if text is REQUIRED:
            self.problem(variable, "is missing")
            return None
        try:
            return row.parse(text)
        except ValueError as error:
            self.problem(variable, str(error))
            self._bad.add(variable)
            return None if row.default is REQUIRED else row.parse(row.default)

    def is_written(self, variable: str) -> bool:
        """Whether it is set to anything."""
        return bool(self.environment.get(variable, "").strip())

    def has_default(self, variable: str) -> bool:
        """Whether it says what it would if nobody had written it."""
        row = ROWS[variable]
        return row.default is not REQUIRED and self[variable] == row.parse(row.default)

    def is_good(self, variable: str) -> bool:
        """Whether its text could be read."""
        self[variable]
        return variable not in self._bad

    def fields_of(self, settings_class: type[Any]) -> dict[str, Any]:
        """The values of its fields that have a row, by the fields' names."""
        return {name: self[row.variable] for name, row in rows_of(settings_class)}

    def ask(self, rules: tuple[Rule, ...]) -> None:
        """Note what the rules find."""
        for rule in rules:
            for variable, text in rule(self):
                self.problem(variable, text)

    def problem(self, variable: str, text: str) -> None:
        name = self._labels.get(variable, variable)
        self.note(f"{name} {text}" if text.startswith("is ") else f"{name}: {text}")

    def note(self, problem: str) -> None:
        """Once, however often it is met: every item of STREAMS meets those of the flat variables."""
        if problem not in self.problems:
            self.problems.append(problem)


def read_settings(environment: Mapping[str, str] | None) -> Settings:
    """The settings in ``environment``; by default, in the process's.

    Raises:
        SettingsError: with every problem.
    """
    reading = Reading(os.environ if environment is None else environment)
    read = reading.fields_of(Settings)
    redis = _redis(reading)
    streams = _streams(reading)
    reading.ask(RULES)
    if reading.problems:
        raise SettingsError(reading.problems)
    read["budget_s"] = budget_of(reading)
    return Settings(**{**read, "redis": redis, "streams": streams})


def _redis(reading: Reading) -> RedisSettings:
    read, of_entra = reading.fields_of(RedisSettings), reading.fields_of(EntraSettings)
    default_port = 6380 if read["tls"] else 6379
    hosts = [(host, port or default_port) for host, port in read["host"] or [("", None)]]
    (host, port), *other_hosts = hosts
    entra = EntraSettings(**of_entra) if read["entra"] == "entra" else None
    return RedisSettings(**{**read, "host": host, "port": port, "other_hosts": tuple(other_hosts), "entra": entra})


Labels = Mapping[str, str]
"""What a variable is called in a problem, where that is not its name."""


def _streams(reading: Reading) -> tuple[StreamSettings, ...]:
    """The one stream of the flat variables, or those of STREAMS, for which the flat variables are the defaults."""
    if not reading.is_written("STREAMS"):
        streams: list[tuple[Labels, StreamSettings]] = [({}, _stream(reading))]
    else:
        items = enumerate(reading["STREAMS"])
        streams = [one for index, item in items for one in _streams_of_item(reading, f"STREAMS[{index}]", item)]
    names = [(stream.stream, stream.group) for _, stream in streams]
    for stream, group in sorted({name for name in names if names.count(name) > 1 and all(name)}):
        reading.problem("STREAMS", f"stream {stream!r} with group {group!r} is there twice")
    for problem in differing_retention([stream for _, stream in streams]):
        reading.problem("STREAMS", problem)
    _keep_hashes_off_own_keys(reading, [one for one in streams if one[1].stream and one[1].group])
    return with_own_groups(tuple(stream for _, stream in streams))


def with_own_groups(streams: tuple[StreamSettings, ...]) -> tuple[StreamSettings, ...]:
    """Each with the groups that all of them together name on its stream."""
    groups: dict[str, tuple[str, ...]] = {}
    for one in streams:
        groups[one.stream] = (*groups.get(one.stream, ()), one.group)
    return tuple(replace(one, own_groups=groups[one.stream]) for one in streams)


def _keep_hashes_off_own_keys(reading: Reading, streams: Sequence[tuple[Labels, StreamSettings]]) -> None:
    for prefix_of, key_of, variable in collisions([stream for _, stream in streams]):
        (labels, _), (labels_of_key, _) = streams[prefix_of], streams[key_of]
        prefix, named = labels.get("HASH_PREFIX", "HASH_PREFIX"), labels_of_key.get(variable, variable)
        reading.note(
            f"{prefix}: a key that {named} makes the janitor use begins with it, so an entry's id could name that key and its "
            f"hash would be written there: choose a prefix that no such key begins with, or change {named}"
        )


def _streams_of_item(reading: Reading, label: str, item: Mapping[str, object]) -> list[tuple[Labels, StreamSettings]]:
    for key in sorted(set(item) - set(ITEM_KEYS) - {"partitions"}):
        reading.note(f"{label}.{key}: not a key of an item; there are {', '.join(ITEM_KEYS)}, partitions")
    name = str(item.get("name", ""))
    dead = reading["DEAD_LETTER_STREAM"] if reading.is_written("DEAD_LETTER_STREAM") else None
    values = {ITEM_KEYS[key]: _as_text(value) for key, value in item.items() if key in ITEM_KEYS}
    labels = {variable: f"{label}.{key}" for key, variable in ITEM_KEYS.items()}
    streams: list[tuple[Labels, StreamSettings]] = []
    for number, stream in enumerate(_partitions(reading, label, name, item.get("partitions"))):
        overlay = {**reading.environment, **values, "STREAM_NAME": stream}
        if item.get("partitions") is not None:
            overlay |= {variable: text.replace("%d", str(number)) for variable, text in values.items()}
        # A flat DEAD_LETTER_STREAM is a prefix here: two streams' dead letters are never merged.
        if dead and "dead_letter_stream" not in item:
            overlay["DEAD_LETTER_STREAM"] = f"{dead}:{stream}"
        of_item = reading.of_item(overlay, labels)
        streams.append((labels, _stream(of_item)))
        for problem in of_item.problems:
            reading.note(problem)
    return streams


def _partitions(reading: Reading, label: str, name: str, partitions: object) -> list[str]:
    if partitions is None:
        return [name]
    if not isinstance(partitions, int) or not 1 <= partitions <= MOST_PARTITIONS or name.count("%d") != 1:
        reading.note(f"{label}.partitions: expected a whole number from 1 to {MOST_PARTITIONS}, and one %d in the name")
        return []
    return [name.replace("%d", str(number)) for number in range(partitions)]


def _stream(reading: Reading) -> StreamSettings:
    read = reading.fields_of(StreamSettings)
    reading.ask(STREAM_RULES)
    read["dead_letter_stream"] = dead_letter_stream_of(reading)
    read["handler_timeout_ms"] = timeout_ms_of(reading)
    if read["action"] in ("requeue", "handle") and not reading.is_written("MAX_DELIVERIES"):
        read["max_deliveries"] = 10
    if read["action"] == "handle" and not reading.is_written("RETRY_BACKOFF"):
        read["retry_backoff"] = 2.0
    if read["store_as"] == "json" and not reading.is_written("INDEX_SCHEMA"):
        read["index_schema"] = schema(DEFAULT_JSON_SCHEMA)
    # A field that makes the key belongs to the data.
    read["keep_trace_fields"] |= not TRACE_FIELDS.isdisjoint(fields_read(read["id_fields"]))
    return StreamSettings(**read)


def _as_text(value: object) -> str:
    """A JSON value as the text that the flat variable would have."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
