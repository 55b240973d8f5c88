"""What a requeued entry holds: all that the abandoned one did, how often it was requeued, and the first entry's id.

requeue.lua does the same inside Redis; tests/test_requeued.py holds both to the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

REQUEUE_COUNT, ORIGINAL_ENTRY_ID = b"requeue_count", b"original_entry_id"
_LONGEST_COUNT: Final = 15
"""Digits that a Lua number holds exactly; a longer count is as good as endless."""


def count_of(fields: Sequence[bytes]) -> int:
    """How often the entry was requeued so far; 0 for what is not a whole number. Of several such fields the last counts."""
    count = 0
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == REQUEUE_COUNT:
            digits = value.lstrip(b"0") if value.isdigit() else b""
            count = min(int(digits[: _LONGEST_COUNT + 1] or b"0"), 10**_LONGEST_COUNT)
    return count


def requeued(entry_id: bytes, fields: Sequence[bytes], most: int) -> list[bytes] | None:
    """The fields of the entry that takes its place; None if it was requeued ``most`` times already (0: no limit).

    Everything else stays as it is, byte for byte and in its order, fields held twice included.
    """
    count = count_of(fields)
    if most and count >= most:
        return None
    made = without(REQUEUE_COUNT, fields)
    if ORIGINAL_ENTRY_ID not in made[::2]:
        made += (ORIGINAL_ENTRY_ID, entry_id)
    made += (REQUEUE_COUNT, b"%d" % (count + 1))
    return made


def counted_anew(fields: Sequence[bytes]) -> list[bytes]:
    """The fields for a redrive into a stream: an entry that carries a count of ours begins again at 0."""
    return without(REQUEUE_COUNT, fields) if ORIGINAL_ENTRY_ID in fields[::2] else list(fields)


def without(wanted: bytes, fields: Sequence[bytes]) -> list[bytes]:
    """Names and values in turn, without the fields of that name."""
    if wanted not in fields:
        return list(fields)
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return [part for name, value in pairs if name != wanted for part in (name, value)]
