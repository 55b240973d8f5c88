"""ACTION=handle with caps, backoff and the brake: what comes in one call, what is never called again."""

from __future__ import annotations

import sys
import types
from collections.abc import AsyncIterator, Iterator

import pytest

from stream_janitor import Dead, Entry, Retry
from tests.conftest import Scene
from tests.test_handle import MODULE, Bench


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    yield module
    del sys.modules[MODULE]


@pytest.fixture
async def bench(scene: Scene, module: types.ModuleType) -> AsyncIterator[Bench]:
    bench = Bench(scene, module)
    yield bench
    await bench.close()


def aged(bench: Bench, idle_ms: int, *deliveries: int) -> list[bytes]:
    bench.scene.add_tweets(len(deliveries))
    ids = bench.scene.deliver()
    for entry_id, count in zip(ids, deliveries, strict=True):
        bench.scene.age([entry_id], idle_ms, "crashed", count)
    return ids


async def test_entries_of_any_delivery_count_come_in_one_call(bench: Bench) -> None:
    aged(bench, 900_000, 1, 2, 3, 1)
    calls: list[list[int]] = []
    report = await bench.sweep(
        lambda entries: calls.append([one.deliveries for one in entries]), HANDLER_BATCH="10", RETRY_BACKOFF="2"
    )
    assert (report.handled, calls) == (4, [[2, 3, 4, 2]])


async def test_an_entry_that_failed_often_waits_longer(bench: Bench) -> None:
    """MIN_IDLE_TIME_SEC=10: due after 10, 20, 40 s."""
    aged(bench, 25_000, 1, 2, 3)
    report = await bench.sweep(lambda entries: None, HANDLER_BATCH="10", RETRY_BACKOFF="2")
    assert (report.handled, report.waiting) == (2, 1)
    assert [deliveries for _, _, deliveries in bench.rows().values()] == [3]


async def test_retry_brings_an_entry_that_waits_long_forward(bench: Bench) -> None:
    """After the third delivery it would be due in 40 s; the handler asks for 5."""
    (entry_id,) = aged(bench, 900_000, 2)
    await bench.sweep(lambda entries: {entries[0].entry_id: Retry(after_s=5)}, RETRY_BACKOFF="2")
    _, idle_ms, deliveries = bench.rows()[entry_id]
    assert deliveries == 3
    assert 35_000 <= idle_ms < 40_000


async def test_what_was_delivered_too_often_is_dead_lettered_and_never_called_with(bench: Bench) -> None:
    aged(bench, 900_000, 9, 10, 11)
    called: list[Entry] = []
    report = await bench.sweep(called.extend, HANDLER_BATCH="10")
    assert (report.handled, report.dead_lettered, len(called)) == (1, 2, 1)
    assert bench.scene.pending() == 0


async def test_without_a_dead_letter_stream_it_stays_pending_and_is_never_called_with(bench: Bench) -> None:
    aged(bench, 900_000, 10)
    called: list[Entry] = []
    report = await bench.sweep(called.extend, DEAD_LETTER_STREAM="off")
    assert (report.failed, called, bench.scene.pending()) == (1, [], 1)


async def test_a_handler_that_calls_everything_dead_is_braked(bench: Bench) -> None:
    """Such as a webhook whose receiver answers 404 to all."""
    aged(bench, 900_000, *([1] * 200))
    report = await bench.sweep(
        lambda entries: {one.entry_id: Dead("the receiver answered HTTP 404") for one in entries}, HANDLER_BATCH="50"
    )
    assert report.dead_lettered <= 100
    assert report.failed >= 100
    assert "HANDLER" in str(report.error)
    assert "the receiver answered HTTP 404" in str(report.error)
