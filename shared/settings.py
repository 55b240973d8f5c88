"""The settings: every variable, its default, and what makes it wrong; read in one place, refused all at once.

App settings reach a function as environment variables, so a setting's name is its variable's name.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from shared.errors import SettingsError
from shared.schedule import shortest_interval_s

DEFAULT_SCHEDULE = "*/20 * * * * *"
DEFAULT_SCHEDULE_INTERVAL_S = 20.0
DEFAULT_SCHEMA = "id TEXT user TEXT text TEXT location TEXT hashtags TAG SEPARATOR ,"
REQUIRED = None
"""In ``DEFAULTS``: the variable has no default and must be set."""

DEFAULTS: dict[str, str | None] = {
    "REDIS_HOST": REQUIRED,
    "REDIS_PASSWORD": "",
    "STREAM_NAME": REQUIRED,
    "STREAM_CONSUMER_GROUP_NAME": REQUIRED,
    "MONITORING_CONSUMER_NAME": REQUIRED,
    "MIN_IDLE_TIME_SEC": REQUIRED,
    "REDIS_USERNAME": "",
    "REDIS_TLS": "true",
    "REDIS_TLS_CA_FILE": "",
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
    "ACK_REPLICAS": "0",
}
"""Every variable that is read, with its default; the README's table is held to this by a test."""

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

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Where Redis is and how to log in. The password is left out of ``repr``."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool
    tls_ca_file: str | None


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
    ack_replicas: int
    reap_after_ms: int
    """0: consumers are never removed."""
    reap_keep: tuple[str, ...]


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

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._problems: list[str] = []

    def settings(self) -> Settings:
        self._refuse_what_is_not_supported()
        redis = self._redis()
        stream = self._stream()
        interval_s = self._read("MONITOR_SCHEDULE", _interval_s, DEFAULT_SCHEDULE_INTERVAL_S)
        budget_s = self._budget_s(interval_s)
        page_size = self._read("PAGE_SIZE", _whole(1, 5000), 1)
        concurrency = self._read("CONCURRENCY", _whole(1, 64), 1)
        if self._problems:
            raise SettingsError(self._problems)
        return Settings(redis, (stream,), interval_s, budget_s, page_size, concurrency)

    def _redis(self) -> RedisSettings:
        tls = self._read("REDIS_TLS", _flag, True)
        nowhere: tuple[str, int | None] = ("", None)
        host, port = self._read("REDIS_HOST", _host_and_port, nowhere)
        ca_file = self._text("REDIS_TLS_CA_FILE")
        if ca_file and not os.path.isfile(ca_file):
            self._problem("REDIS_TLS_CA_FILE", "there is no such file")
        if ca_file and not tls:
            self._problem("REDIS_TLS_CA_FILE", "is set, but REDIS_TLS is false: nothing would be verified")
        # Not stripped: a password may begin or end with a space.
        password = self._environment.get("REDIS_PASSWORD") or None
        username = self._text("REDIS_USERNAME") or None
        if username and not password:
            self._problem("REDIS_USERNAME", "is set, but REDIS_PASSWORD is not")
        return RedisSettings(host, port or (6380 if tls else 6379), username, password, tls, ca_file or None)

    def _stream(self) -> StreamSettings:
        stream = self._read("STREAM_NAME", _not_empty, "")
        mode = self._read("SETTLE_MODE", _one_of(_MODES), "auto")
        ack_replicas = self._read("ACK_REPLICAS", _whole(0, 100), 0)
        if mode == "script" and ack_replicas:
            self._problem("ACK_REPLICAS", "needs SETTLE_MODE gather or auto: a script cannot wait for replicas")
        return StreamSettings(
            stream=stream,
            group=self._read("STREAM_CONSUMER_GROUP_NAME", _not_empty, ""),
            consumer=self._read("MONITORING_CONSUMER_NAME", _not_empty, ""),
            min_idle_ms=1000 * self._read("MIN_IDLE_TIME_SEC", _whole(0, 10**9), 0),
            hash_prefix=self._read("HASH_PREFIX", _not_empty, ""),
            id_fields=self._read("ID_FIELDS", _names, ()),
            index_name=self._read("INDEX_NAME", _not_empty, ""),
            index_schema=self._read("INDEX_SCHEMA", _schema, None),
            on_conflict=self._read("ON_CONFLICT", _one_of(_CONFLICTS), "overwrite"),
            settle_mode=mode,
            dead_letter_stream=self._dead_letter_stream(stream),
            max_attempts=self._read("MAX_ATTEMPTS", _whole(1, 10**6), 1),
            ack_replicas=ack_replicas,
            reap_after_ms=1000 * self._read("REAP_CONSUMERS_AFTER_SEC", _whole(0, 10**9), 0),
            reap_keep=tuple(part.strip() for part in self._text("REAP_KEEP").split(",") if part.strip()),
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
        self._problems.append(f"{name} {text}" if text.startswith("is ") else f"{name}: {text}")


def _interval_s(text: str) -> float:
    if text == DEFAULT_SCHEDULE:
        return DEFAULT_SCHEDULE_INTERVAL_S
    try:
        return shortest_interval_s(text)
    except ValueError as error:
        raise ValueError(f"not a schedule (six fields, seconds first, like {DEFAULT_SCHEDULE!r}): {error}") from None


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
