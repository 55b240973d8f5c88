"""The pending entries list: its summary, and its rows page by page, never all at once.

Sources: XPENDING (redis.io/commands/xpending), the same on every Redis from 6.0: no IDLE filter, which scans a list of a
million for 60 to 130 ms in one go, and no exclusive ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared.redis_client import RedisLink, Reply

FIRST, LAST = b"-", b"+"
_GREATEST_SEQUENCE = 2**64 - 1
GREATEST_ID = b"%d-%d" % (_GREATEST_SEQUENCE, _GREATEST_SEQUENCE)
"""The last id that there can be; none follows it."""


class PendingEntry(NamedTuple):
    """One row: an entry that was delivered and not acknowledged. A tuple, as a page may hold thousands."""

    entry_id: bytes
    consumer: bytes
    """Who had it last; empty if it was released (XNACK, Redis 8.8)."""
    idle_ms: int
    """Since its last delivery, by the server's clock; -1 if it was released and is free to take."""
    deliveries: int


class Summary(NamedTuple):
    """The list as a whole, before the sweep."""

    total: int
    smallest_id: bytes | None
    greatest_id: bytes | None


def summary_of(reply: Reply) -> Summary:
    """The reply to ``XPENDING stream group``."""
    total, smallest, greatest, _consumers = reply
    return Summary(total, smallest, greatest)


def milliseconds_of(entry_id: bytes) -> int:
    """The time in an id: when the entry was added, unless its producer made the id up."""
    return int(entry_id.split(b"-", 1)[0])


def time_ms(reply: Sequence[bytes]) -> int:
    """The server's clock, from the reply to TIME."""
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


def age_s(entry_id: bytes | None, now_ms: int) -> float | None:
    """Seconds since an entry was added, by the server's clock; None without an entry, 0 for an id ahead of the clock."""
    return None if entry_id is None else max(now_ms - milliseconds_of(entry_id), 0) / 1000


def order_of(entry_id: bytes) -> tuple[int, int]:
    """A key that sorts ids as the stream does; a bare time counts as its first id."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def following(entry_id: bytes) -> bytes:
    """The smallest id after this one (ranges that exclude their start need Redis 6.2)."""
    milliseconds, sequence = order_of(entry_id)
    if sequence == _GREATEST_SEQUENCE:
        return b"%d-0" % (milliseconds + 1)
    return b"%d-%d" % (milliseconds, sequence + 1)


def preceding(entry_id: bytes) -> bytes:
    """The greatest id before this one."""
    milliseconds, sequence = order_of(entry_id)
    if sequence:
        return b"%d-%d" % (milliseconds, sequence - 1)
    return b"%d-%d" % (max(milliseconds - 1, 0), _GREATEST_SEQUENCE if milliseconds else 0)


async def read_page(
    link: RedisLink, stream: str, group: str, first: bytes, last: bytes, size: int
) -> list[list[bytes | int]]:
    """Up to ``size`` rows of the list from id ``first`` to id ``last``, as the server sends them.

    1,000 rows take the server about 1.2 ms. A page shorter than ``size`` is the last one.
    """
    rows: list[list[bytes | int]] = await link.call("XPENDING", stream, group, first, last, size)
    return rows
