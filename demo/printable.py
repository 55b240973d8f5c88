"""Text from entries, made safe to print: entries are bytes that anybody may have written."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

# Joiners that emoji and Indic scripts are made with. The other format characters turn the reading direction
# round or hide text, so they are shown by number instead.
_JOINERS = "\u200c\u200d"
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(value: bytes | str) -> str:
    """The value with everything that steers a terminal, or is no UTF-8, shown as an escape; never raises."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return "".join(_shown(character) for character in text)


def shortened(value: bytes | str, cells: int) -> str:
    """The printable value on one line, cut to that many terminal cells."""
    text = printable(" ".join(_text(value).split()))
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"


def padded(value: bytes | str, cells: int) -> str:
    """The printable value in exactly that many terminal cells."""
    return set_cell_size(shortened(value, cells), cells)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _shown(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
