"""The settings: every variable, its default, and what makes it wrong; read in one place, refused all at once.

App settings reach a function as environment variables, so a setting's name is its variable's name.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from shared.errors import SettingsError
from shared.hash_tags import has_hash_tag
from shared.schedule import shortest_interval_s

DEFAULT_SCHEDULE = "*/20 * * * * *"
DEFAULT_SCHEDULE_INTERVAL_S = 20.0
DEFAULT_SCHEMA = "id TEXT user TEXT text TEXT location TEXT hashtags TAG SEPARATOR ,"
TRACE_FIELDS = frozenset(("traceparent", "tracestate"))
"""The fields in which a producer leaves its trace context (W3C Trace Context), flat in the entry."""
REQUIRED = None
"""In ``DEFAULTS``: the variable has no default and must be set."""

DEFAULTS: dict[str, str | None] = {
    "REDIS_HOST": REQUIRED,
    "REDIS_PASSWORD": "",
    "STREAM_NAME": REQUIRED,
    "STREAMS": "",
    "STREAM_CONSUMER_GROUP_NAME": REQUIRED,
    "MONITORING_CONSUMER_NAME": REQUIRED,
    "MIN_IDLE_TIME_SEC": REQUIRED,
    "REDIS_USERNAME": "",
    "REDIS_TLS": "true",
    "REDIS_TLS_CA_FILE": "",
    "REDIS_CLUSTER": "false",
    "REDIS_AUTH": "password",
    "REDIS_ENTRA_CREDENTIAL": "managed",
    "REDIS_ENTRA_CLIENT_ID": "",
    "MONITOR_SCHEDULE": DEFAULT_SCHEDULE,
    "SWEEP_BUDGET_SEC": "15",
    "HASH_PREFIX": "tweet:",
    "ID_FIELDS": "id",
    "INDEX_NAME": "tweets-index",
    "INDEX_SCHEMA": DEFAULT_SCHEMA,
    "PAGE_SIZE": "1000",
    "CONCURRENCY": "4",
    "SETTLE_MODE": "auto",
    "ON_CONFLICT": "overwrite",
    "DEAD_LETTER_STREAM": "<STREAM_NAME>:dead",
    "MAX_ATTEMPTS": "10",
    "REAP_CONSUMERS_AFTER_SEC": "0",
    "REAP_KEEP": "",
    "ACK_REPLICAS": "auto",
    "KEEP_TRACE_FIELDS": "false",
    "RECOVERY_RATE_LIMIT": "0",
    "RECOVERED_CHANNEL": "",
}
"""Every variable that is read, with its default; the README's table is held to this by a test."""

ITEM_KEYS: dict[str, str] = {
    "name": "STREAM_NAME",
    "group": "STREAM_CONSUMER_GROUP_NAME",
    "consumer": "MONITORING_CONSUMER_NAME",
    "min_idle_sec": "MIN_IDLE_TIME_SEC",
    "prefix": "HASH_PREFIX",
    "id_fields": "ID_FIELDS",
    "index": "INDEX_NAME",
    "schema": "INDEX_SCHEMA",
    "settle_mode": "SETTLE_MODE",
    "on_conflict": "ON_CONFLICT",
    "dead_letter_stream": "DEAD_LETTER_STREAM",
    "max_attempts": "MAX_ATTEMPTS",
    "reap_consumers_after_sec": "REAP_CONSUMERS_AFTER_SEC",
    "reap_keep": "REAP_KEEP",
    "ack_replicas": "ACK_REPLICAS",
    "keep_trace_fields": "KEEP_TRACE_FIELDS",
    "rate_limit": "RECOVERY_RATE_LIMIT",
    "recovered_channel": "RECOVERED_CHANNEL",
}
"""The key of an item of STREAMS → the flat variable whose value it has instead, for that stream."""
MOST_PARTITIONS = 128

_NOT_SUPPORTED = {
    "REDIS_SENTINEL": "Sentinel is not supported: name the primary in REDIS_HOST, or a proxy that follows it",
    "REDIS_SENTINELS": "Sentinel is not supported: name the primary in REDIS_HOST, or a proxy that follows it",
    "REDIS_DB": "database numbers are not supported: the stream has to be in database 0",
    "REDIS_TLS_CERT_FILE": "client certificates are not supported: log in with REDIS_USERNAME and REDIS_PASSWORD",
    "REDIS_TLS_KEY_FILE": "client certificates are not supported: log in with REDIS_USERNAME and REDIS_PASSWORD",
    "REDIS_TLS_VERIFY": "certificates are always verified: for a private CA set REDIS_TLS_CA_FILE",
    "REDIS_SSL_CERT_REQS": "certificates are always verified: for a private CA set REDIS_TLS_CA_FILE",
}
_YES, _NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::(?P<port>\d+))?")
_MODES = ("auto", "script", "gather")
_CONFLICTS = ("overwrite", "newer", "keep")
_LOGINS = ("password", "entra")
_CREDENTIALS = ("managed", "default")
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class EntraSettings:
    """Whose tokens of Microsoft Entra ID to log in with."""

    credential: str
    """``managed``: the platform's managed identity; ``default``: whatever azure-identity's DefaultAzureCredential finds."""
    client_id: str | None
    """Of a user-assigned identity; None: the system-assigned one."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Where Redis is and how to log in. The password is left out of ``repr``."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool
    tls_ca_file: str | None
    entra: EntraSettings | None = None
    """None: log in with the password, if there is one."""
    cluster: bool = False
    """Whether the server belongs to a Redis Cluster, whose other servers it names."""
    other_hosts: tuple[tuple[str, int], ...] = ()
    """Of a cluster, further servers to ask for the others."""
    tls_name: str | None = None
    """The name that the certificate has to have; None: ``host``."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """One stream, one consumer group, and what is to become of the entries that were left behind in it."""

    stream: str
    group: str
    consumer: str
    min_idle_ms: int
    hash_prefix: str
    id_fields: tuple[str, ...]
    index_name: str
    index_schema: tuple[str, ...] | None
    """What follows SCHEMA in FT.CREATE; None: no index is wanted."""
    on_conflict: str
    settle_mode: str
    dead_letter_stream: str | None
    """None: entries that cannot be stored stay pending."""
    max_attempts: int
    ack_replicas: int | None
    """None: 1 in a cluster that has replicas, else 0; and a script, whose writes lie on one server, needs none."""
    reap_after_ms: int
    """0: consumers are never removed."""
    reap_keep: tuple[str, ...]
    keep_trace_fields: bool
    """Whether an entry's ``traceparent`` and ``tracestate`` are stored in its hash like any other field."""
    rate_limit: int = 0
    """Entries a second that all janitors of the group together may take up; 0: any number."""
    recovered_channel: str | None = None
    """Where others are told of the hashes that were written; None: nowhere."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a tick needs to know. One Redis, and one item in ``streams`` for each stream it watches."""

    redis: RedisSettings
    streams: tuple[StreamSettings, ...]
    interval_s: float
    budget_s: float
    """What a tick may take, in seconds; always under ``interval_s``."""
    page_size: int
    concurrency: int

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """The settings that ``environment`` (default: the process's) holds.

        Raises:
            SettingsError: with every bad or missing variable, each by its name; no value of a secret is in it.
        """
        return _Reader(os.environ if environment is None else environment).settings()


class _Reader:
    """Reads variables one by one and keeps the problems for the end, so that all are told at once."""

    def __init__(self, environment: Mapping[str, str], labels: Mapping[str, str] | None = None) -> None:
        """``labels``: what a variable is called in a problem, where that is not its name."""
        self._environment = environment
        self._labels = labels or {}
        self._problems: list[str] = []

    def settings(self) -> Settings:
        self._refuse_what_is_not_supported()
        redis = self._redis()
        streams = self._streams()
        interval_s = self._read("MONITOR_SCHEDULE", _interval_s, DEFAULT_SCHEDULE_INTERVAL_S)
        budget_s = self._budget_s(interval_s)
        page_size = self._read("PAGE_SIZE", _whole(1, 5000), 1)
        concurrency = self._read("CONCURRENCY", _whole(1, 64), 1)
        if self._problems:
            raise SettingsError(self._problems)
        return Settings(redis, streams, interval_s, budget_s, page_size, concurrency)

    def _redis(self) -> RedisSettings:
        tls = self._read("REDIS_TLS", _flag, True)
        nowhere: list[tuple[str, int | None]] = [("", None)]
        hosts = self._read("REDIS_HOST", _hosts_and_ports, nowhere)
        default_port = 6380 if tls else 6379
        (host, port), *other_hosts = [(host, port or default_port) for host, port in hosts]
        ca_file = self._text("REDIS_TLS_CA_FILE")
        if ca_file and not os.path.isfile(ca_file):
            self._problem("REDIS_TLS_CA_FILE", "there is no such file")
        if ca_file and not tls:
            self._problem("REDIS_TLS_CA_FILE", "is set, but REDIS_TLS is false: nothing would be verified")
        # Not stripped: a password may begin or end with a space.
        password = self._environment.get("REDIS_PASSWORD") or None
        username = self._text("REDIS_USERNAME") or None
        entra = self._entra(host, tls)
        if username and not password and entra is None:
            self._problem("REDIS_USERNAME", "is set, but REDIS_PASSWORD is not")
        cluster = self._read("REDIS_CLUSTER", _flag, False)
        if other_hosts and not cluster:
            self._problem("REDIS_HOST", "several servers are for a cluster: set REDIS_CLUSTER=true, or name one")
        return RedisSettings(host, port, username, password, tls, ca_file or None, entra, cluster, tuple(other_hosts))

    def _entra(self, host: str, tls: bool) -> EntraSettings | None:
        credential = self._read("REDIS_ENTRA_CREDENTIAL", _one_of(_CREDENTIALS), "managed")
        client_id = self._text("REDIS_ENTRA_CLIENT_ID") or None
        if self._read("REDIS_AUTH", _one_of(_LOGINS), "password") == "password":
            for name in ("REDIS_ENTRA_CREDENTIAL", "REDIS_ENTRA_CLIENT_ID"):
                if self._environment.get(name, "").strip():
                    self._problem(name, "is set, but REDIS_AUTH is not entra")
            return None
        if self._environment.get("REDIS_PASSWORD"):
            self._problem("REDIS_PASSWORD", "is set, but REDIS_AUTH=entra logs in with tokens: remove one of them")
        if self._text("REDIS_USERNAME"):
            self._problem("REDIS_USERNAME", "is set, but with REDIS_AUTH=entra the token says who logs in: remove it")
        if not tls and host.lower() not in _THIS_MACHINE:
            self._problem("REDIS_TLS", "is false, but with REDIS_AUTH=entra tokens must not travel readable")
        if importlib.util.find_spec("redis_entraid") is None:
            self._problem(
                "REDIS_AUTH",
                "entra needs a package: pip install -r requirements-entra.txt "
                "(the function app wants its line in requirements.txt)",
            )
        return EntraSettings(credential, client_id)

    def _streams(self) -> tuple[StreamSettings, ...]:
        """The one stream of the flat variables, or those of STREAMS, for which the flat variables are the defaults."""
        if not self._text("STREAMS"):
            return (self._stream(),)
        if self._environment.get("STREAM_NAME", "").strip():
            self._problem("STREAMS", "is set, and STREAM_NAME too: name every stream in STREAMS")
        streams: list[StreamSettings] = []
        no_items: list[dict[str, object]] = []
        for index, item in enumerate(self._read("STREAMS", _items, no_items)):
            streams += self._streams_of_item(f"STREAMS[{index}]", item)
        names = [(stream.stream, stream.group) for stream in streams]
        for stream, group in sorted({name for name in names if names.count(name) > 1 and all(name)}):
            self._problem("STREAMS", f"stream {stream!r} with group {group!r} is there twice")
        return tuple(streams)

    def _streams_of_item(self, label: str, item: Mapping[str, object]) -> list[StreamSettings]:
        unknown = sorted(set(item) - set(ITEM_KEYS) - {"partitions"})
        for key in unknown:
            self._problems.append(f"{label}.{key}: not a key of an item; there are {', '.join(ITEM_KEYS)}, partitions")
        name, dead = str(item.get("name", "")), self._environment.get("DEAD_LETTER_STREAM", "").strip()
        values = {ITEM_KEYS[key]: _as_text(value) for key, value in item.items() if key in ITEM_KEYS}
        labels = {variable: f"{label}.{key}" for key, variable in ITEM_KEYS.items()}
        streams = []
        for number, stream in enumerate(self._partitions(label, name, item.get("partitions"))):
            overlay = {**self._environment, **values, "STREAM_NAME": stream}
            if item.get("partitions") is not None:
                overlay |= {variable: text.replace("%d", str(number)) for variable, text in values.items()}
            # A flat DEAD_LETTER_STREAM is a prefix here: two streams' dead letters are never merged.
            if dead and dead.lower() != "off" and "dead_letter_stream" not in item:
                overlay["DEAD_LETTER_STREAM"] = f"{dead}:{stream}"
            reader = _Reader(overlay, labels)
            streams.append(reader._stream())
            self._problems += [problem for problem in reader._problems if problem not in self._problems]
        return streams

    def _partitions(self, label: str, name: str, partitions: object) -> list[str]:
        if partitions is None:
            return [name]
        if not isinstance(partitions, int) or not 1 <= partitions <= MOST_PARTITIONS or name.count("%d") != 1:
            self._problems.append(
                f"{label}.partitions: expected a whole number from 1 to {MOST_PARTITIONS}, and one %d in the name"
            )
            return []
        return [name.replace("%d", str(number)) for number in range(partitions)]

    def _stream(self) -> StreamSettings:
        stream = self._read("STREAM_NAME", _not_empty, "")
        mode = self._read("SETTLE_MODE", _one_of(_MODES), "auto")
        ack_replicas = self._read("ACK_REPLICAS", _auto_or(_whole(0, 100)), None)
        if mode == "script" and ack_replicas:
            self._problem("ACK_REPLICAS", "needs SETTLE_MODE gather or auto: a script cannot wait for replicas")
        rate_limit = self._read("RECOVERY_RATE_LIMIT", _whole(0, 10**6), 0)
        if rate_limit and "}" in stream and not has_hash_tag(stream) and self._text("REDIS_CLUSTER").lower() in _YES:
            self._problem(
                "RECOVERY_RATE_LIMIT", "in a cluster its key has to lie in the stream's slot, and a stream whose name has "
                "a } but no {tag} leaves no way to name it",
            )  # fmt: skip
        no_names: tuple[str, ...] = ()
        id_fields = self._read("ID_FIELDS", _names, no_names)
        return StreamSettings(
            stream=stream,
            group=self._read("STREAM_CONSUMER_GROUP_NAME", _not_empty, ""),
            consumer=self._read("MONITORING_CONSUMER_NAME", _not_empty, ""),
            min_idle_ms=1000 * self._read("MIN_IDLE_TIME_SEC", _whole(0, 10**9), 0),
            hash_prefix=self._read("HASH_PREFIX", _not_empty, ""),
            id_fields=id_fields,
            index_name=self._read("INDEX_NAME", _not_empty, ""),
            index_schema=self._read("INDEX_SCHEMA", _schema, None),
            on_conflict=self._read("ON_CONFLICT", _one_of(_CONFLICTS), "overwrite"),
            settle_mode=mode,
            dead_letter_stream=self._dead_letter_stream(stream),
            max_attempts=self._read("MAX_ATTEMPTS", _whole(1, 10**6), 1),
            ack_replicas=ack_replicas,
            reap_after_ms=1000 * self._read("REAP_CONSUMERS_AFTER_SEC", _whole(0, 10**9), 0),
            reap_keep=tuple(part.strip() for part in self._text("REAP_KEEP").split(",") if part.strip()),
            # A field that makes the key belongs to the data.
            keep_trace_fields=self._read("KEEP_TRACE_FIELDS", _flag, False) or not TRACE_FIELDS.isdisjoint(id_fields),
            rate_limit=rate_limit,
            recovered_channel=self._text("RECOVERED_CHANNEL") or None,
        )

    def _dead_letter_stream(self, stream: str) -> str | None:
        name = self._environment.get("DEAD_LETTER_STREAM", "").strip() or f"{stream}:dead"
        if name.lower() == "off":
            return None
        if name == stream:
            self._problem("DEAD_LETTER_STREAM", "must not be STREAM_NAME itself")
        return name

    def _budget_s(self, interval_s: float) -> float:
        if not self._environment.get("SWEEP_BUDGET_SEC", "").strip():
            return min(float(str(DEFAULTS["SWEEP_BUDGET_SEC"])), 0.75 * interval_s)
        budget_s = self._read("SWEEP_BUDGET_SEC", _positive_number, 0.0)
        if budget_s >= interval_s:
            self._problem("SWEEP_BUDGET_SEC", f"must be under the schedule's interval of {interval_s:g} s")
        return budget_s

    def _refuse_what_is_not_supported(self) -> None:
        for name, reason in _NOT_SUPPORTED.items():
            if self._environment.get(name, "").strip():
                self._problem(name, reason)

    def _text(self, name: str) -> str:
        return self._environment.get(name, "").strip() or DEFAULTS[name] or ""

    def _read(self, name: str, parse: Callable[[str], Value], instead: Value) -> Value:
        """The parsed value of ``name``; ``instead`` stands in for a bad one until the problems are raised."""
        text = self._text(name)
        if not text and DEFAULTS[name] is REQUIRED:
            self._problem(name, "is missing")
            return instead
        try:
            return parse(text)
        except ValueError as error:
            self._problem(name, str(error))
            return instead

    def _problem(self, name: str, text: str) -> None:
        name = self._labels.get(name, name)
        self._problems.append(f"{name} {text}" if text.startswith("is ") else f"{name}: {text}")


def _interval_s(text: str) -> float:
    if text == DEFAULT_SCHEDULE:
        return DEFAULT_SCHEDULE_INTERVAL_S
    try:
        return shortest_interval_s(text)
    except ValueError as error:
        raise ValueError(f"not a schedule (six fields, seconds first, like {DEFAULT_SCHEDULE!r}): {error}") from None


def _hosts_and_ports(text: str) -> list[tuple[str, int | None]]:
    return [_host_and_port(part.strip()) for part in text.split(",")]


def _host_and_port(text: str) -> tuple[str, int | None]:
    match = _HOST.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if not match or (port is not None and not 0 < port < 65536):
        # The value is not quoted: somebody may have put a URL with a password there.
        raise ValueError("expected host or host:port, without a scheme (IPv6 in brackets)")
    return match["host"].strip("[]"), port


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return int(text)

    return parse


def _auto_or(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    def parse_unless_auto(text: str) -> int | None:
        try:
            return None if text.lower() == "auto" else parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None

    return parse_unless_auto


def _positive_number(text: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII) or float(text) <= 0:
        raise ValueError("expected a number of seconds above 0")
    return float(text)


def _flag(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError("expected true or false")
    return text.lower() in _YES


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("expected " + ", ".join(choices[:-1]) + " or " + choices[-1])
        return text.lower()

    return parse


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _items(text: str) -> list[dict[str, object]]:
    import json

    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise ValueError("expected a JSON array of objects, one for each stream")
    return items


def _as_text(value: object) -> str:
    """A JSON value as the text that the flat variable would have."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise ValueError("expected field names separated by commas, none of them empty or twice")
    return names


def _schema(text: str) -> tuple[str, ...] | None:
    if text.lower() == "off":
        return None
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"not a list of words: {error}") from None
    if len(words) < 2:
        raise ValueError("expected what follows SCHEMA in FT.CREATE, or off")
    return words
