"""How far a sweep goes: its deadlines, what ended it early, and where the next one goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from monitor.pending import FIRST, order_of
from shared.errors import JanitorError
from shared.redis_client import RedisLink
from shared.retry import Contact, Deadline, retry

Result = TypeVar("Result")

LAST_SHARE_S: Final = 1.0
"""No batch starts in the budget's final second (or fifth): in-flight work is cancelled at the deadline."""


class SweepState:
    """Whether the sweep goes on. ``error`` is the first thing that went wrong with it."""

    def __init__(self, link: RedisLink, budget_s: float) -> None:
        self._link = link
        self._contact = Contact(link)
        self._soft_end = Deadline.after(budget_s - min(LAST_SHARE_S, budget_s / 5))
        self._hard_end = Deadline.after(budget_s)
        self._ended = asyncio.Event()
        self.error: JanitorError | None = None
        self.was_stopped = False
        self.left_at: bytes | None = None
        """The smallest id that was not settled; None: there is none."""
        self.needs_reconnect = False
        """The connections lead to a server that was demoted: the next sweep needs new ones."""

    @property
    def left_s(self) -> float:
        """Seconds until the sweep is cancelled."""
        return max(self._hard_end.left_s(), 0.01)

    @property
    def is_over(self) -> bool:
        """Whether the time to begin anything is over."""
        return self._soft_end.is_over()

    @property
    def is_complete(self) -> bool:
        return self.error is None and self.left_at is None

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is to be begun: the time is over, or the sweep failed or was stopped."""
        return self._ended.is_set() or self.is_over

    async def retry(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat ``attempt`` while its error says that it may work in a moment, and there is time for it."""
        return await retry(attempt, self._soft_end, self._link.reconnect, self._contact)

    async def ended(self) -> None:
        """Wait until the sweep failed or was stopped."""
        await self._ended.wait()

    def fail(self, error: JanitorError) -> None:
        """End the sweep: nothing more is begun."""
        self.note(error)
        self._ended.set()

    def note(self, error: JanitorError) -> None:
        """Go on, and report the first such error at the end."""
        if self.error is None:
            self.error = error

    def stop(self) -> None:
        """Begin nothing more, without an error."""
        self.was_stopped = True
        self._soft_end = Deadline.after(0)
        self._ended.set()

    async def pause(self, seconds: float) -> None:
        """Wait for so long, or until nothing more is to be begun."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), max(min(seconds, self._soft_end.left_s()), 0))

    def stops_at(self, entry_id: bytes) -> bool:
        """Whether nothing more is to be begun; if so, notes that the sweep got as far as ``entry_id``."""
        if not self.is_ending:
            return False
        if self.left_at is None or entry_id != FIRST:
            self.leave(entry_id)
        return True

    def leave(self, entry_id: bytes) -> None:
        """The next sweep goes on at the smallest id that was left."""
        if entry_id == FIRST:
            entry_id = b"0-0"
        if self.left_at is None or order_of(entry_id) < order_of(self.left_at):
            self.left_at = entry_id
