"""What ``doctor`` sees in the data itself: do pending entries have ID_FIELDS, and may the server evict what is stored?"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from monitor.entry_key import NO_ID, EntryKey
from monitor.entry_reader import EntryReader, TooLargeToCarry
from monitor.pending import FIRST, LAST
from monitor.portion import Portion
from shared.names import printable
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

MOST_ENTRIES: Final = 100
MOST_BYTES: Final = 2_000_000
MOST_FIELDS_NAMED: Final = 8


class IdSample(NamedTuple):
    """Of so many pending entries that were looked at, how many have every id field, and what fields there are."""

    looked_at: int
    with_id: int
    fields: tuple[str, ...]
    """The most frequent first."""


async def sample_of_ids(link: RedisLink, settings: StreamSettings) -> IdSample:
    """Look at up to 100 pending entries, the oldest of the list, of at most 2 MB. Reads only.

    Raises:
        redis.exceptions.RedisError: they could not be read.
    """
    rows = await link.call("XPENDING", settings.stream, settings.group, FIRST, LAST, MOST_ENTRIES)
    ids = [row[0] for row in rows]
    reader, key = EntryReader(link, settings.stream, Portion(4, 32)), EntryKey(settings)
    looked_at = with_id = weight = 0
    names: Counter[bytes] = Counter()
    while ids and weight < MOST_BYTES:
        size = reader.portion.size
        try:
            held = await reader.read(ids[:size])
        except TooLargeToCarry:
            held, size = [], 1
        for entry_id, fields in zip(ids, held, strict=False):
            if fields is not None:
                looked_at += 1
                with_id += key.of(fields, entry_id)[1] != NO_ID
                weight += sum(map(len, fields))
                names.update(set(fields[::2]))
        ids = ids[size:]
    seen = tuple(printable(name, 40) for name, _ in names.most_common(MOST_FIELDS_NAMED))
    return IdSample(looked_at, with_id, seen)


async def eviction_policy(link: RedisLink) -> str | None:
    """``maxmemory-policy``, by INFO memory; None where it is not said, or this user may not ask."""
    (reply,) = await link.pipelined([("INFO", "memory")])
    if isinstance(reply, Exception):
        return None
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    found = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("maxmemory_policy:")]
    return found[0] if found else None
