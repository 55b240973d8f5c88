"""Bytes that anybody may have written, made safe to print.

Whoever can add to a stream can put anything into an entry: colours, cursor movements, a line that looks like ours, text
that turns the reading direction round. What is shown here can be told from what is plain: a backslash is doubled.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size

Encoded: TypeAlias = "str | dict[str, str]"

_JOINERS = "\u200c\u200d"  # emoji and Indic scripts are made with them
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(value: bytes | str) -> str:
    """``value`` on one line, with all that steers a terminal, hides, or is no UTF-8 as an escape."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return harmless(text.replace("\\", "\\\\"))


def harmless(text: str) -> str:
    """``text`` with control characters escaped; doing it twice changes nothing."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def shortened(value: bytes | str, cells: int) -> str:
    """``shown``, cut to that many terminal cells."""
    # A value may be of megabytes; no more of it is looked at than can be seen.
    text = shown(value[: 4 * cells])
    if cell_len(text) <= cells and len(value) <= 4 * cells:
        return text
    return set_cell_size(text, cells - 1).rstrip() + "…"


def pairs_shown(fields: Sequence[bytes], cells: int) -> str:
    """Names and values in turn as ``name=value name=value``, cut to that many terminal cells."""
    parts: list[str] = []
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        parts.append(f"{shortened(name, 40)}={shortened(value, cells)}")
        if sum(map(len, parts)) > cells:
            break
    text = " ".join(parts)
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"


def encoded(value: bytes) -> Encoded:
    """``value`` for JSON, nothing lost: a string, or ``{"base64": …}`` where it is no UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def encoded_pairs(fields: Sequence[bytes]) -> list[list[Encoded]]:
    """Names and values in turn as a list of pairs: an entry may hold a field twice."""
    return [[encoded(name), encoded(value)] for name, value in zip(fields[::2], fields[1::2], strict=False)]


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED:
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
