"""The process's handler calls: HANDLER_CONCURRENCY slots, a timeout for each call, and an eye on those that hang."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Final

from monitor.handling.find import HandlerSpec
from monitor.handling.opened import OpenHandler, Rooms, call_soon_if_open, open_handler
from monitor.handling.verdicts import TimedOut, Verdict, Verdicts, same_for_all, verdicts_of_error
from shared.errors import HandlerUnusable
from stream_janitor import Entry

CLOSING_S: Final = 2.0
"""What the handlers' context managers may take to close."""


class Runner:
    """Belongs to one event loop, the sweep's, on which nothing here ever waits for the user's code."""

    def __init__(self, concurrency: int, show_tracebacks: bool = False) -> None:
        self.concurrency = concurrency
        self._free = concurrency
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._rooms = Rooms(show_tracebacks)
        self._handlers: dict[HandlerSpec, asyncio.Task[OpenHandler]] = {}
        self._in_hand: dict[tuple[str, str, str], int] = {}
        self.hung = 0
        """Calls past their timeout that have not ended: each keeps its slot."""

    @property
    def all_hung(self) -> bool:
        """Nothing can be called any more until one of them ends; only a new process is sure to help."""
        return self.hung >= self.concurrency

    def has_in_hand(self, stream: str, group: str, entry_id: str) -> bool:
        """Whether a call with this entry has not ended, so that this process must not call with it again."""
        return (stream, group, entry_id) in self._in_hand

    async def open(self, spec: HandlerSpec, timeout_s: float) -> OpenHandler:
        """The handler of ``spec``, made ready once for the process.

        Raises:
            SettingsError, stream_janitor.Unavailable: see ``open_handler``; the next call tries again.
            HandlerUnusable: its context manager raised, or takes longer than ``timeout_s``.
        """
        if spec not in self._handlers:
            self._handlers[spec] = asyncio.create_task(open_handler(self._rooms, spec))
        task = self._handlers[spec]
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise HandlerUnusable(f"HANDLER: opening it takes longer than {timeout_s:g} s")
        if task.cancelled() or task.exception() is not None:
            self._handlers.pop(spec, None)
        return task.result()

    async def take_slot(self, wait_s: float) -> Slot | None:
        """A slot for one call, in order of asking; None if none became free within ``wait_s`` seconds."""
        if self._free:
            self._free -= 1
            return Slot(self)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=max(wait_s, 0))
        except asyncio.CancelledError:
            if waiter.done():
                self._free_slot()
            raise
        finally:
            granted = waiter.done()
            waiter.cancel()  # passed over when a slot becomes free
        return Slot(self) if granted else None

    def _free_slot(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    async def close(self) -> None:
        """Leave the handlers' context managers, for at most CLOSING_S, and end what is idle; hung calls end with the process."""
        opened = [task for task in self._handlers.values() if task.done() and not task.cancelled()]
        unfinished = [task for task in self._handlers.values() if not task.done()]
        for task in unfinished:
            task.cancel()
        handlers = [task.result() for task in opened if task.exception() is None]
        self._handlers.clear()
        leaving: list[Awaitable[object]] = [handler.leave() for handler in handlers]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*leaving, *unfinished, return_exceptions=True), CLOSING_S)
        self._rooms.close()


class Slot:
    """The right to one call, from ``Runner.take_slot``. Give it back unless a call was made with it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._is_used = False

    def give_back(self) -> None:
        """Free the slot; nothing if a call was made with it, which frees it when it ends."""
        if not self._is_used:
            self._is_used = True
            self._runner._free_slot()

    async def call(self, handler: OpenHandler, entries: Sequence[Entry], timeout_s: float) -> Verdicts:
        """Call ``handler`` with ``entries``: a verdict for each, after ``timeout_s`` seconds at the latest.

        A call that is not through by then, or when this is cancelled, goes on, since no thread can be ended from outside:
        it keeps its slot and its entries in hand until it ends, and what it says then is dropped.
        """
        assert not self._is_used
        self._is_used = True
        call = _Call(self._runner, entries)
        return await call.run(handler, timeout_s)


class _Call:
    def __init__(self, runner: Runner, entries: Sequence[Entry]) -> None:
        self._runner = runner
        self._entries = entries
        self._keys = [(entry.stream, entry.group, entry.entry_id) for entry in entries]
        self._loop = asyncio.get_running_loop()
        self._verdicts: asyncio.Future[dict[str, Verdict]] = self._loop.create_future()
        self._is_hung = False

    async def run(self, handler: OpenHandler, timeout_s: float) -> Verdicts:
        started_s = time.monotonic()
        self._take_in_hand()
        try:
            handler.start(self._entries, self._ended)
        except RuntimeError as error:  # the process is closing
            self._end(verdicts_of_error(error, self._entries))
        try:
            await asyncio.wait({self._verdicts}, timeout=timeout_s)
        finally:
            self._note_whether_it_hangs()
        duration_s = time.monotonic() - started_s
        if self._is_hung:
            return Verdicts(same_for_all(TimedOut(timeout_s), self._entries), duration_s)
        return Verdicts(self._verdicts.result(), duration_s)

    def _ended(self, verdicts: dict[str, Verdict]) -> None:
        """On the handler's thread."""
        call_soon_if_open(self._loop, lambda: self._end(verdicts))

    def _end(self, verdicts: dict[str, Verdict]) -> None:
        runner = self._runner
        for key in self._keys:
            runner._in_hand[key] -= 1
            if not runner._in_hand[key]:
                del runner._in_hand[key]
        if self._is_hung:
            runner.hung -= 1
        else:
            self._verdicts.set_result(verdicts)
        runner._free_slot()

    def _take_in_hand(self) -> None:
        for key in self._keys:
            self._runner._in_hand[key] = self._runner._in_hand.get(key, 0) + 1

    def _note_whether_it_hangs(self) -> None:
        if not self._verdicts.done():
            self._is_hung = True
            self._runner.hung += 1
            self._verdicts.cancel()
