"""A handler that is ready to be called, and its way there: found, its context manager entered once, left at the end."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from monitor.handling.find import Function, HandlerSpec, find, function_of
from monitor.handling.threads import DaemonThreads, HandlerLoop
from monitor.handling.verdicts import Verdict, verdicts_of, verdicts_of_error
from shared.errors import HandlerUnusable, JanitorError
from stream_janitor import Entry, Unavailable

logger = logging.getLogger("monitor")

Ended: TypeAlias = Callable[[dict[str, Verdict]], None]
"""Told of a call's verdicts, once, on whatever thread it ended."""


class Rooms:
    """The threads of one process's handlers."""

    def __init__(self, show_tracebacks: bool) -> None:
        self.loop = HandlerLoop()
        self.threads = DaemonThreads()
        self.show_tracebacks = show_tracebacks
        """Log what handlers raise with its traceback, which may quote entries: for ``--debug`` only."""

    def close(self) -> None:
        self.loop.close()
        self.threads.close()


class OpenHandler:
    """One handler's function; ``start`` calls it where such a function runs."""

    def __init__(self, rooms: Rooms, function: Function, visit: _Visit | None = None) -> None:
        self._rooms = rooms
        self._function = function
        self._is_async = _is_async(function)
        self._visit = visit

    async def leave(self) -> None:
        """Leave the context manager that gave the function, if one did."""
        if self._visit is not None:
            await self._visit.leave()

    def start(self, entries: Sequence[Entry], ended: Ended) -> None:
        """Begin the call; ``ended`` gets its verdicts, however it ends. The caller's context variables are current in it."""
        context = contextvars.copy_context()
        call = _Call(self._rooms, self._function, list(entries), ended, context)
        if self._is_async:
            self._rooms.loop.start(call.run_async, context)
        else:
            self._rooms.threads.run(call.run_plain)


class _Call:
    def __init__(
        self, rooms: Rooms, function: Function, entries: list[Entry], ended: Ended, context: contextvars.Context
    ) -> None:
        self._rooms, self._function, self._ended, self._context = rooms, function, ended, context
        self._entries = entries
        self._given = list(entries)
        """The handler's own list, which it may change."""

    async def run_async(self) -> None:
        await self._await(lambda: self._function(self._given))

    def run_plain(self) -> Callable[[], None] | None:
        """On a thread; an awaitable result is awaited on the loop."""
        try:
            result = self._context.run(self._function, self._given)
            if inspect.isawaitable(result):
                self._rooms.loop.start(lambda: self._await(lambda: result), self._context.copy())
                return None
            verdicts = verdicts_of(result, self._entries)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: the handler's end is not the janitor's
            verdicts = self._raised(error)
        return lambda: self._ended(verdicts)

    async def _await(self, begin: Callable[[], Any]) -> None:
        try:
            result = begin()
            while inspect.isawaitable(result):
                result = await result
            verdicts = verdicts_of(result, self._entries)
        except BaseException as error:  # noqa: BLE001 - SystemExit would end the loop of all handlers
            verdicts = self._raised(error)
        self._ended(verdicts)

    def _raised(self, error: BaseException) -> dict[str, Verdict]:
        if self._rooms.show_tracebacks:
            ids = ", ".join(entry.entry_id for entry in self._entries[:20])
            logger.warning("the handler raised for %s\n%s", ids, "".join(traceback.format_exception(error)))
        return verdicts_of_error(error, self._entries)


async def open_handler(rooms: Rooms, spec: HandlerSpec) -> OpenHandler:
    """Find what ``spec`` names and make it ready; the user's code runs on threads of its own here too.

    Raises:
        SettingsError: HANDLER or HANDLER_PATH names nothing that can be used.
        HandlerUnusable: its context manager raised.
        stream_janitor.Unavailable: its context manager says that what it needs is out of reach.
    """
    found = await _on_thread(rooms, lambda: find(spec))
    if found.manager is None:
        assert found.function is not None
        return OpenHandler(rooms, found.function)
    visit = _Visit(found.manager)
    return OpenHandler(rooms, await visit.enter(rooms), visit)


class _Visit:
    """Entered and left in one task, as timeouts and task groups inside a context manager need it."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._leaving = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left: _Answer | None = None

    def enter(self, rooms: Rooms) -> Awaitable[Function]:
        answer = _Answer()
        rooms.loop.start(lambda: self._stay(answer), contextvars.copy_context())
        return answer.future

    async def _stay(self, answer: _Answer) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with self._manager as opened:
                answer.give(function_of(opened))
                await self._leaving.wait()
        except (JanitorError, Unavailable) as error:
            answer.fail(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the user's
            answer.fail(HandlerUnusable(f"HANDLER: its context manager raised {type(error).__name__}"))
            if self._left is not None:
                logger.warning("HANDLER: closing its context manager raised %s", type(error).__name__)
        finally:
            if self._left is not None:
                self._left.give(None)

    async def leave(self) -> None:
        """Until it is left, however long that takes."""
        assert self._loop is not None
        self._left = _Answer()
        call_soon_if_open(self._loop, self._leaving.set)
        await self._left.future


class _Answer:
    """A future of this loop that another thread fills; nobody may be waiting any more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def give(self, result: object) -> None:
        self._tell(lambda: self.future.set_result(result))

    def fail(self, error: BaseException) -> None:
        self._tell(lambda: self.future.set_exception(error))

    def _tell(self, fill: Callable[[], None]) -> None:
        call_soon_if_open(self._loop, lambda: None if self.future.done() else fill())


def call_soon_if_open(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """From any thread; a late result finds the loop closed, and nobody to tell."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():
            raise


async def _on_thread(rooms: Rooms, function: Callable[[], Any]) -> Any:
    answer = _Answer()

    def job() -> None:
        try:
            answer.give(function())
        except BaseException as error:  # noqa: BLE001 - it goes to whoever awaits it
            answer.fail(error)

    rooms.threads.run(job)
    return await answer.future


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
