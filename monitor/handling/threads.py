"""Where the user's code runs: plain functions on daemon threads, async ones on an event loop in a thread of its own.

None of these threads is ever joined: a handler that hangs must not hold up SIGTERM. That is why nothing here is a
ThreadPoolExecutor or ``asyncio.to_thread``, whose threads the interpreter waits for at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

Job: TypeAlias = Callable[[], Callable[[], None] | None]
"""Work for a thread; what it returns is called once the thread is free again. Must not raise."""


def start_daemon(target: Callable[..., object], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True, name="stream-janitor-handler").start()


class DaemonThreads:
    """As many threads as there are jobs at once; an idle one takes the next job."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Job | None]] = []

    def run(self, job: Job) -> None:
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = queue.SimpleQueue()
            start_daemon(self._work, inbox)
        inbox.put(job)

    def _work(self, inbox: queue.SimpleQueue[Job | None]) -> None:
        while (job := inbox.get()) is not None:
            then = job()
            self._idle.append(inbox)
            if then is not None:
                then()
            del job, then  # an idle thread keeps no entries in memory

    def close(self) -> None:
        """End the idle threads; a busy one ends with the process."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().put(None)


class HandlerLoop:
    """One event loop for all async handlers of the process, started when the first one needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], context: contextvars.Context) -> None:
        """Run the coroutine that ``make`` gives there, from any thread; it must not raise.

        Raises:
            RuntimeError: the loop was closed.
        """
        self._running().call_soon_threadsafe(self._spawn, make, context=context)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_default_executor(_DaemonExecutor())
                start_daemon(self._main, self._loop)
            return self._loop

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _spawn(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(make())
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Cancel what runs there and end the loop; waits for nothing, as a handler may be blocking it."""
        with self._lock:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._wind_up()))

    async def _wind_up(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1) if tasks else None
        loop.stop()


class _DaemonExecutor(ThreadPoolExecutor):
    """For ``asyncio.to_thread`` and name look-ups inside a handler: a hung one must not hold up the process's end either."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        start_daemon(_fill, future, function, arguments, named)
        return future


def _fill(future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(*arguments, **named))
    except BaseException as error:  # noqa: BLE001 - it goes to whoever awaits it
        future.set_exception(error)
