"""The walk over the pending entries list: page after page, from the cursor to the end, then what lies before the cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

from monitor.pending import FIRST, GREATEST_ID, following, preceding, read_page
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

Rows: TypeAlias = "list[list[bytes | int]]"
Range: TypeAlias = tuple[bytes, bytes]
Read: TypeAlias = "Callable[[], Awaitable[Rows]]"


def ranges_from(cursor: bytes | None, end: bytes) -> list[Range]:
    """What to walk so that no head that cannot be processed starves the tail: first and last ids, both inclusive."""
    return [(FIRST, end)] if cursor is None else [(cursor, end), (FIRST, preceding(cursor))]


class Walk:
    """Reads one group's list once. ``position`` is the id of the first row that was not handed out and dealt with."""

    def __init__(self, link: RedisLink, settings: StreamSettings, page_size: int) -> None:
        self._link = link
        self._settings = settings
        self._page_size = page_size
        self.position = FIRST

    async def pages(
        self,
        ranges: Sequence[Range],
        stops_at: Callable[[bytes], bool] = lambda entry_id: False,
        retry: Callable[[Read], Awaitable[Rows]] = lambda read: read(),
    ) -> AsyncIterator[Rows]:
        """The pages, as the server sends their rows, until ``stops_at`` says so of the next one's first id.

        Raises:
            redis.exceptions.RedisError: the page could not be read, ``retry`` notwithstanding.
        """
        for first, last in ranges:
            self.position = first
            while not stops_at(self.position):
                rows = await retry(self._reader(self.position, last))
                yield rows
                if len(rows) < self._page_size or rows[-1][0] == GREATEST_ID:
                    break
                self.position = following(rows[-1][0])  # type: ignore[arg-type]

    def _reader(self, first: bytes, last: bytes) -> Read:
        stream, group, size = self._settings.stream, self._settings.group, self._page_size
        return lambda: read_page(self._link, stream, group, first, last, size)
