"""How the text of a setting becomes its value. A parser raises ValueError with what was expected, never with the text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar

from shared.id_fields import path_of

Parsed = TypeVar("Parsed")
Instead = TypeVar("Instead")

DEFAULT_SCHEDULE = "*/20 * * * * *"
DEFAULT_SCHEDULE_INTERVAL_S = 20.0

_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_DECIMAL = r"\d{1,9}(\.\d{1,6})?"
_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::(?P<port>\d+))?"


def interval_s(text: str) -> float:
    """The shortest interval of a schedule, in seconds."""
    if text == DEFAULT_SCHEDULE:
        return DEFAULT_SCHEDULE_INTERVAL_S
    from shared.schedule import shortest_interval_s  # a cold start pays for imports

    try:
        return shortest_interval_s(text)
    except ValueError as error:
        raise ValueError(f"not a schedule (six fields, seconds first, like {DEFAULT_SCHEDULE!r}): {error}") from None


def hosts_and_ports(text: str) -> list[tuple[str, int | None]]:
    """``host`` or ``host:port``, or several separated by commas."""
    return [_host_and_port(part.strip()) for part in text.split(",")]


def _host_and_port(text: str) -> tuple[str, int | None]:
    match = re.fullmatch(_HOST, text)
    port = int(match["port"]) if match and match["port"] else None
    if not match or (port is not None and not 0 < port < 65536):
        # The value is not quoted: somebody may have put a URL with a password there.
        raise ValueError("expected host or host:port, without a scheme (IPv6 in brackets)")
    return match["host"].strip("[]"), port


def whole(least: int, most: int, factor: int = 1) -> Callable[[str], int]:
    """A whole number; the value is ``factor`` times as much: 1000 for seconds that become milliseconds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return factor * int(text)

    return parse


def word_or(word: str, instead: Instead, parse: Callable[[str], Parsed]) -> Callable[[str], Parsed | Instead]:
    """The value ``instead`` for ``word``, and for no text."""

    def parse_unless_word(text: str) -> Parsed | Instead:
        try:
            return instead if text.lower() in ("", word) else parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or {word}") from None

    return parse_unless_word


def seconds(text: str) -> float:
    """A number of seconds above 0, with decimals if wanted."""
    if not re.fullmatch(_DECIMAL, text, re.ASCII) or float(text) <= 0:
        raise ValueError("expected a number of seconds above 0")
    return float(text)


def milliseconds(text: str) -> int:
    """Milliseconds, from a number of seconds above 0, with decimals if wanted."""
    return max(int(seconds(text) * 1000), 1)


def number(least: int, most: int) -> Callable[[str], float]:
    """A number, perhaps with a decimal point."""

    def parse(text: str) -> float:
        if not re.fullmatch(_DECIMAL, text, re.ASCII) or not least <= float(text) <= most:
            raise ValueError(f"expected a number from {least} to {most}")
        return float(text)

    return parse


def flag(text: str) -> bool:
    """true, 1, yes, on; or false, 0, no, off; in any case of letters."""
    if text.lower() not in _YES + _NO:
        raise ValueError("expected true or false")
    return text.lower() in _YES


def one_of(*choices: str) -> Callable[[str], str]:
    """One of some words, in any case of letters."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("expected " + ", ".join(choices[:-1]) + " or " + choices[-1])
        return text.lower()

    return parse


def not_empty(text: str) -> str:
    """Any text but none."""
    if not text:
        raise ValueError("must not be empty")
    return text


def optional(text: str) -> str | None:
    """Any text; None for the empty one."""
    return text or None


def unless_off(text: str) -> str | None:
    """Any text; None for ``off``."""
    return None if text.lower() == "off" else text


def folder(text: str) -> str:
    """The name of a folder that is there."""
    if not os.path.isdir(text):
        raise ValueError("there is no such folder")
    return text


def handler_name(text: str) -> str | None:
    """``module:name``, or a handler that ships; None for no text."""
    word = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    if text and text not in ("webhook", "sql") and not re.fullmatch(f"{word}:{word}", text):
        raise ValueError("expected module:name, such as billing:handle, or webhook or sql")
    return text or None


def file_name(text: str) -> str | None:
    """The name of a file that is there; None for no name."""
    if text and not os.path.isfile(text):
        raise ValueError("there is no such file")
    return text or None


def items(text: str) -> list[dict[str, object]]:
    """A JSON array of objects; none for the empty text."""
    import json

    if not text:
        return []
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise ValueError("expected a JSON array of objects, one for each stream")
    return items


def names(text: str) -> tuple[str, ...]:
    """One or more names separated by commas, none of them twice."""
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise ValueError("expected field names separated by commas, none of them empty or twice")
    return names


def id_fields(text: str) -> tuple[str, ...]:
    """Names, each of a field, a member path, or ``@entry``."""
    found = names(text)
    for name in found:
        path_of(name)
    return found


def patterns(text: str) -> tuple[str, ...]:
    """Any number of glob patterns separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def schema(text: str) -> tuple[str, ...] | None:
    """The words of a schema; None for ``off``."""
    if text.lower() == "off":
        return None
    try:
        words = _words(text)
    except ValueError as error:
        raise ValueError(f"not a list of words: {error}") from None
    if len(words) < 2:
        raise ValueError("expected what follows SCHEMA in FT.CREATE, or off")
    return words


def _words(text: str) -> tuple[str, ...]:
    is_plain = text.isascii() and text.isprintable() and not any(mark in text for mark in "'\"\\")
    if is_plain:
        return tuple(text.split())
    import shlex  # a cold start pays for imports

    return tuple(shlex.split(text))
