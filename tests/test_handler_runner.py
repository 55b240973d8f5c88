"""Handlers run away from the sweep's loop, in slots; one that hangs keeps its slot and holds up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import subprocess
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.handling.find import HandlerSpec
from monitor.handling.runner import Runner, Slot
from monitor.handling.verdicts import Raised, TimedOut, Verdict, Verdicts
from shared.errors import HandlerUnusable, SettingsError
from stream_janitor import Dead, Done, Entry, Unavailable
from tests.test_handler_verdicts import entry

ROOT = Path(__file__).parent.parent
LONG_S = 60.0
SHORT_S = 0.02


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """Where HANDLER finds what a test defines: ``handlers_of_a_test:<name>``."""
    module = types.ModuleType("handlers_of_a_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


class Calls:
    """Calls what a test defines, in a runner of its own."""

    def __init__(self, runner: Runner, module: types.ModuleType) -> None:
        self.runner = runner
        self._module = module

    async def __call__(self, function: Any, *entries: Entry, timeout_s: float = LONG_S) -> list[Verdict]:
        verdicts = await self.in_slot(await self.slot(), function, *entries, timeout_s=timeout_s)
        return list(verdicts.by_id.values())

    async def in_slot(self, slot: Slot, function: Any, *entries: Entry, timeout_s: float = LONG_S) -> Verdicts:
        handler = await self.runner.open(self.spec(function), LONG_S)
        return await slot.call(handler, entries or [entry()], timeout_s)

    def spec(self, function: Any) -> HandlerSpec:
        name = f"handler_{id(function)}"
        setattr(self._module, name, function)
        return HandlerSpec(f"{self._module.__name__}:{name}")

    async def slot(self) -> Slot:
        slot = await self.runner.take_slot(LONG_S)
        assert slot is not None
        return slot

    async def has_free_slots(self, count: int) -> None:
        """Wait until so many are free at once."""
        slots = [await self.slot() for _ in range(count)]
        for slot in slots:
            slot.give_back()


@pytest.fixture
async def calls(module: types.ModuleType) -> AsyncIterator[Calls]:
    """In a runner with two slots."""
    runner = Runner(2)
    yield Calls(runner, module)
    await runner.close()


# --- what may be a handler ------------------------------------------------------------------------------------------------


async def asynchronous(entries: list[Entry]) -> dict[str, object]:
    await asyncio.sleep(0)
    return {one.entry_id: Done for one in entries}


def plain(entries: list[Entry]) -> dict[str, object]:
    return {one.entry_id: Done for one in entries}


def plain_with_an_awaitable(entries: list[Entry]) -> Awaitable[dict[str, object]]:
    return asynchronous(entries)


async def awaitable_of_an_awaitable(entries: list[Entry]) -> Awaitable[dict[str, object]]:
    return asynchronous(entries)


class Instance:
    async def __call__(self, entries: list[Entry]) -> None: ...


@contextlib.asynccontextmanager
async def giving_a_plain_one() -> AsyncIterator[Callable[..., object]]:
    yield plain


@contextlib.asynccontextmanager
async def giving_an_async_one() -> AsyncIterator[Callable[..., object]]:
    yield asynchronous


@pytest.mark.parametrize(
    "handler",
    [
        asynchronous,
        plain,
        plain_with_an_awaitable,
        awaitable_of_an_awaitable,
        Instance(),
        giving_a_plain_one,
        giving_an_async_one,
    ],
)
async def test_every_form_of_a_handler_is_called_and_what_it_returns_is_awaited(calls: Calls, handler: object) -> None:
    assert await calls(handler, entry("1-0"), entry("2-0")) == [Done(), Done()]


async def test_the_entries_come_as_a_list_of_the_handler_s_own(calls: Calls) -> None:
    def empties_it(entries: list[Entry]) -> None:
        assert [one.entry_id for one in entries] == ["1-0", "2-0"]
        entries.clear()

    assert await calls(empties_it, entry("1-0"), entry("2-0")) == [Done(), Done()]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("is_async", [True, False])
async def test_whatever_a_handler_raises_ends_its_call_and_nothing_else(
    calls: Calls, error: type[BaseException], is_async: bool
) -> None:
    async def asynchronously(entries: list[Entry]) -> None:
        raise error("kanarie")

    def plainly(entries: list[Entry]) -> None:
        raise error("kanarie")

    raises = asynchronously if is_async else plainly
    assert await calls(raises) == [Raised(f"handler raised {error.__name__}")]
    assert await calls(asynchronous) == await calls(plain) == [Done()]
    await calls.has_free_slots(2)


async def test_unavailable_is_heard_from_both_kinds(calls: Calls) -> None:
    async def asynchronously(entries: list[Entry]) -> None:
        raise Unavailable("down", after_s=3)

    def plainly(entries: list[Entry]) -> Unavailable:
        return Unavailable("down", after_s=3)

    for handler in (asynchronously, plainly):
        (verdict,) = await calls(handler)
        assert isinstance(verdict, Unavailable)
        assert (verdict.reason, verdict.after_s) == ("down", 3)


async def test_a_mapping_whose_own_code_raises_acknowledges_nothing(calls: Calls) -> None:
    class Broken(dict[str, object]):
        def items(self) -> Any:
            raise LookupError

    def handler(entries: list[Entry]) -> object:
        return Broken()

    assert await calls(handler) == [Raised("handler raised LookupError")]


async def test_the_context_of_the_caller_is_current_in_the_handler(calls: Calls) -> None:
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")

    def plainly(entries: list[Entry]) -> dict[str, object]:
        return {"1-0": Dead(trace.get())}

    async def asynchronously(entries: list[Entry]) -> dict[str, object]:
        await asyncio.sleep(0)
        return plainly(entries)

    def both(entries: list[Entry]) -> Awaitable[dict[str, object]]:
        return asynchronously(entries)

    trace.set("the entry's")
    for handler in (plainly, asynchronously, both):
        assert await calls(handler) == [Dead("the entry's")]


# --- never on the sweep's loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_handler_that_blocks_does_not_block_the_sweep(calls: Calls, is_async: bool) -> None:
    go_on = threading.Event()

    def blocks(entries: list[Entry]) -> dict[str, object] | None:
        return None if go_on.wait(LONG_S) else {}

    async def blocks_its_loop(entries: list[Entry]) -> dict[str, object] | None:
        return blocks(entries)

    call = asyncio.create_task(calls(blocks_its_loop if is_async else blocks))
    for _ in range(100):  # what a sweep would do meanwhile
        await asyncio.sleep(0)
    go_on.set()
    assert await call == [Done()]


async def test_a_handler_on_the_sweep_s_loop_is_caught() -> None:
    """Control: the event that it waits for is set by the loop that it blocks."""
    go_on = threading.Event()

    async def naive_call() -> bool:
        return go_on.wait(0.2)

    call = asyncio.create_task(naive_call())
    await asyncio.sleep(0)
    go_on.set()
    assert not await call


async def test_nothing_of_the_user_runs_on_the_sweep_s_thread(
    calls: Calls, module: types.ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "where_am_i.py").write_text(
        "import contextlib, threading\n"
        "seen = [threading.get_ident()]\n"
        "def handle(entries): seen.append(threading.get_ident())\n"
        "@contextlib.asynccontextmanager\n"
        "async def managed():\n"
        "    seen.append(threading.get_ident())\n"
        "    yield handle\n"
    )
    handler = await calls.runner.open(HandlerSpec("where_am_i:managed", str(tmp_path)), LONG_S)
    await (await calls.slot()).call(handler, [entry()], LONG_S)
    seen = sys.modules.pop("where_am_i").seen
    sys.path.remove(str(tmp_path))
    assert len(seen) == 3
    assert threading.get_ident() not in seen


# --- slots ----------------------------------------------------------------------------------------------------------------


async def test_no_more_calls_are_under_way_than_there_are_slots(calls: Calls) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def counts(entries: list[Entry]) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.001)
        with lock:
            under_way -= 1

    await asyncio.gather(*(calls(counts) for _ in range(50)))
    assert most == 2


async def test_slots_are_taken_in_the_order_of_asking(calls: Calls) -> None:
    slots = [await calls.slot(), await calls.slot()]
    order: list[int] = []

    async def ask(number: int) -> None:
        slot = await calls.slot()
        order.append(number)
        slot.give_back()

    asking = [asyncio.create_task(ask(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert await calls.runner.take_slot(0) is None
    for slot in slots:
        slot.give_back()
        slot.give_back()  # twice is once
    await asyncio.gather(*asking)
    assert order == [0, 1, 2, 3, 4]
    await calls.has_free_slots(2)
    assert calls.runner._free == 2


async def test_a_slot_that_was_granted_to_somebody_who_left_is_not_lost(calls: Calls) -> None:
    slots = [await calls.slot(), await calls.slot()]
    gone = [asyncio.create_task(calls.runner.take_slot(LONG_S)) for _ in range(2)]
    await asyncio.sleep(0)
    gone[0].cancel()  # while it waits
    for slot in slots:
        slot.give_back()
    gone[1].cancel()  # when it was granted one
    await asyncio.gather(*gone, return_exceptions=True)
    await calls.has_free_slots(2)
    assert calls.runner._free == 2


async def test_idle_threads_take_the_next_calls(calls: Calls) -> None:
    threads = set()

    def notes(entries: list[Entry]) -> None:
        threads.add(threading.get_ident())

    for _ in range(50):
        await calls(notes)
    assert len(threads) <= 2


# --- calls that hang ------------------------------------------------------------------------------------------------------


class Hanging:
    """A handler that hangs until it is told to go on, and then says that all is done."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.ended = 0

    def plainly(self, entries: list[Entry]) -> None:
        self.go_on.wait(LONG_S)
        self.ended += 1

    async def asynchronously(self, entries: list[Entry]) -> None:
        while not self.go_on.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        self.ended += 1


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.go_on.set()


@pytest.fixture(params=["plainly", "asynchronously"])
def hangs(hanging: Hanging, request: pytest.FixtureRequest) -> object:
    return getattr(hanging, request.param)


async def test_a_call_past_its_timeout_is_an_attempt_keeps_its_slot_and_its_entries(
    calls: Calls, hanging: Hanging, hangs: object
) -> None:
    assert await calls(hangs, entry("1-0"), timeout_s=SHORT_S) == [TimedOut(SHORT_S)]
    assert (calls.runner.hung, calls.runner.all_hung) == (1, False)
    assert calls.runner.has_in_hand("orders", "billing", "1-0")
    assert not calls.runner.has_in_hand("orders", "other group", "1-0")
    assert await calls(plain, entry("2-0")) == [Done()], "the other slot serves on"
    assert not calls.runner.has_in_hand("orders", "billing", "2-0")


async def test_when_every_slot_hangs_it_can_be_seen_and_nothing_waits_forever(calls: Calls, hangs: object) -> None:
    await asyncio.gather(*(calls(hangs, timeout_s=SHORT_S) for _ in range(2)))
    assert calls.runner.all_hung
    assert await calls.runner.take_slot(SHORT_S) is None


async def test_a_hung_call_that_ends_frees_its_slot_and_its_late_result_is_dropped(
    calls: Calls, hanging: Hanging, hangs: object
) -> None:
    assert await calls(hangs, entry("1-0"), timeout_s=SHORT_S) == [TimedOut(SHORT_S)]
    hanging.go_on.set()
    await calls.has_free_slots(2)
    assert (hanging.ended, calls.runner.hung) == (1, 0)
    assert not calls.runner.has_in_hand("orders", "billing", "1-0")
    assert await calls(plain, entry("1-0")) == [Done()]


async def test_a_sweep_that_is_cancelled_leaves_the_call_its_slot(
    calls: Calls, hanging: Hanging, hangs: object
) -> None:
    call = asyncio.create_task(calls(hangs, entry("1-0")))
    while not calls.runner.has_in_hand("orders", "billing", "1-0"):  # noqa: ASYNC110
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert calls.runner.hung == 1
    hanging.go_on.set()
    await calls.has_free_slots(2)
    assert calls.runner.hung == 0


async def test_verdicts_say_how_long_the_call_took(calls: Calls) -> None:
    verdicts = await calls.in_slot(await calls.slot(), lambda entries: time.sleep(0.01))
    assert 0.01 <= verdicts.duration_s < LONG_S


ENDS = """
import asyncio, threading, time
from monitor.handling.find import HandlerSpec
from monitor.handling.runner import Runner
from stream_janitor import Entry

def hangs(entries): threading.Event().wait()
async def hangs_in_a_thread(entries): await asyncio.to_thread(threading.Event().wait)
async def blocks_its_loop(entries): threading.Event().wait()

async def main():
    runner = Runner(3)
    one = [Entry("1-0", (), "s", "g", 1, "c", 0.0)]
    for name in ("hangs", "hangs_in_a_thread", "blocks_its_loop"):
        handler = await runner.open(HandlerSpec("__main__:" + name), 60)
        await (await runner.take_slot(60)).call(handler, one, 0.05)
    assert runner.all_hung
    await runner.close()

asyncio.run(main())
print("ended", flush=True)
"""
NAIVE_ENDS = """
import asyncio, threading

async def main():
    try:
        await asyncio.wait_for(asyncio.to_thread(threading.Event().wait), 0.05)
    except asyncio.TimeoutError:
        print("timed out", flush=True)

asyncio.run(main())
print("ended", flush=True)
"""


def test_handlers_that_hang_do_not_hold_up_the_end_of_the_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ENDS], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "ended\n", "")


def test_a_timeout_around_to_thread_is_caught() -> None:
    """Control: the interpreter waits for that thread, so SIGTERM's orderly end never comes."""
    with subprocess.Popen([sys.executable, "-c", NAIVE_ENDS], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "timed out\n"
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(1.5)
        run.kill()


# --- opening and closing --------------------------------------------------------------------------------------------------


async def test_a_context_manager_is_entered_once_for_all_calls_and_left_at_the_end_in_the_same_task(
    calls: Calls,
) -> None:
    told: list[tuple[str, object]] = []

    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Callable[..., object]]:
        told.append(("entered", asyncio.current_task()))
        yield plain
        told.append(("left", asyncio.current_task()))

    assert await asyncio.gather(*(calls(managed) for _ in range(10))) == [[Done()]] * 10
    await calls.runner.close()
    assert [what for what, _ in told] == ["entered", "left"]
    assert told[0][1] is told[1][1]


async def test_a_context_manager_that_cannot_reach_its_sink_is_unavailable_and_tried_again(calls: Calls) -> None:
    tries = 0

    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Callable[..., object]]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("the database is down")
        yield plain

    spec = calls.spec(managed)
    with pytest.raises(Unavailable, match="the database is down"):
        await calls.runner.open(spec, LONG_S)


async def test_a_context_manager_that_raises_is_told_by_class_only(calls: Calls) -> None:
    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Callable[..., object]]:
        raise ValueError("kanarie")
        yield plain

    with pytest.raises(HandlerUnusable) as raised:
        await calls.runner.open(calls.spec(managed), LONG_S)
    assert str(raised.value) == "HANDLER: its context manager raised ValueError"


async def test_a_context_manager_that_gives_nothing_to_call_is_refused(calls: Calls) -> None:
    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[None]:
        yield None

    with pytest.raises(SettingsError, match="HANDLER: the context manager gives NoneType"):
        await calls.runner.open(calls.spec(managed), LONG_S)


async def test_a_context_manager_that_hangs_costs_no_more_than_the_timeout_and_is_not_entered_twice(
    calls: Calls,
) -> None:
    entered, go_on = 0, threading.Event()

    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Callable[..., object]]:
        nonlocal entered
        entered += 1
        while not go_on.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        yield plain

    spec = calls.spec(managed)
    for _ in range(2):
        with pytest.raises(HandlerUnusable, match=r"takes longer than 0\.02 s"):
            await calls.runner.open(spec, SHORT_S)
    go_on.set()
    await calls.runner.open(spec, LONG_S)
    assert entered == 1


async def test_closing_waits_for_no_context_manager_for_long(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType
) -> None:
    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Callable[..., object]]:
        yield plain
        await asyncio.sleep(LONG_S)

    monkeypatch.setattr("monitor.handling.runner.CLOSING_S", SHORT_S)
    await calls(managed)
    started_s = time.monotonic()
    await calls.runner.close()
    assert time.monotonic() - started_s < LONG_S / 2


@pytest.mark.parametrize("shows", [True, False])
async def test_a_traceback_is_logged_only_where_it_was_asked_for(
    module: types.ModuleType, caplog: pytest.LogCaptureFixture, shows: bool
) -> None:
    def raises(entries: list[Entry]) -> None:
        raise ValueError("kanarie")

    caplog.set_level(1)
    runner = Runner(1, show_tracebacks=shows)
    await Calls(runner, module)(raises, entry("7-0"))
    await runner.close()
    assert ("kanarie" in caplog.text) == shows
    assert ("7-0" in caplog.text) == shows
