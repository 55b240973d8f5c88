"""Names of streams, groups and keys, as they may be printed: anybody may have made them."""

from __future__ import annotations

from typing import Final

_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def printable(name: str | bytes, most: int | None = None) -> str:
    """The name with its control characters escaped, so that it stays on its line and moves no terminal's cursor.

    Of ``most`` characters at most, before they are escaped.
    """
    text = (name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name)[:most]
    return text if text.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in text)


def quoted(name: str) -> str:
    """The name as redis-cli takes it: in double quotes where it would otherwise fall apart."""
    if name and name.isprintable() and not set(name) & set(" \"'\\"):
        return name
    inside = "".join(_escaped(one) if one in _ESCAPES or not one.isprintable() else one for one in name)
    return f'"{inside}"'


def _escaped(one: str) -> str:
    return _ESCAPES.get(one) or "".join(f"\\x{byte:02x}" for byte in one.encode("utf-8", "surrogateescape"))
