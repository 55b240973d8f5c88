"""Attempts of a handler: counted before the code runs, never for what is not the entry's fault, and once for each call."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import types
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from demo.redis import RedisServer
from monitor.janitor import Janitor
from monitor.scripts import attempt_script
from shared import telemetry
from shared.redis_client import Command
from stream_janitor import Dead, Done, Entry, Retry, Unavailable
from tests.conftest import Scene, new_scene, raw_client, wire
from tests.test_fence import EXECUTABLES
from tests.test_handle import Bench

ROOT = Path(__file__).parent.parent
MODULE = "handlers_of_test_handle"


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


class Lost:
    """Loses the reply of the first commands that ``is_meant``: they ran, and nobody knows."""

    def __init__(self, janitor: Any, is_meant: Any, times: int = 1) -> None:
        self._is_meant, self._left = is_meant, times
        self.lost = 0
        wire(janitor).after = self._see

    def _see(self, command: Command, reply: object) -> None:
        if self._left and self._is_meant(command) and not isinstance(reply, Exception):
            self._left -= 1
            self.lost += 1
            raise RedisConnectionError("the reply was lost")


def is_claim(command: Command) -> bool:
    return command[:2] == ("EVALSHA", attempt_script().sha1)


def is_ack(command: Command) -> bool:
    return command[0] == "XACK"


def is_fence(command: Command) -> bool:
    return command[0] == "EVALSHA" and "set" in command


# --- what counts ----------------------------------------------------------------------------------------------------------

KILLER = """
import asyncio, os, sys
from monitor.janitor import Janitor
from shared.settings import Settings

def kills(entries):
    os._exit(7)

def counts_in_except(entries):
    try:
        os._exit(7)
    except BaseException:
        print("counted")  # where a naive handler keeps its count
        raise

asyncio.run(Janitor(Settings.from_env()).tick())
"""


async def test_a_handler_that_kills_its_process_reaches_its_cap(bench: Bench) -> None:
    bench.abandon()
    environment = {
        **os.environ, **bench.scene.environment,
        "ACTION": "handle", "HANDLER": "__main__:kills", "INDEX_SCHEMA": "off", "RETRY_BACKOFF": "off",
    }  # fmt: skip
    for number in range(3):
        bench.make_due()
        run = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", KILLER], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        assert run.returncode == 7, run.stderr
        assert [deliveries for _, _, deliveries in bench.rows().values()] == [2 + number]


async def test_a_count_kept_in_except_never_counts_a_killed_process(bench: Bench) -> None:
    """Control: an incident in public saw 800 deliveries of one entry."""
    bench.abandon()
    environment = {
        **os.environ, **bench.scene.environment,
        "ACTION": "handle", "HANDLER": "__main__:counts_in_except", "INDEX_SCHEMA": "off",
    }  # fmt: skip
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLER],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (7, "")


async def test_each_call_that_fails_is_one_attempt(bench: Bench) -> None:
    (entry_id,) = bench.abandon()

    def raises(entries: list[Entry]) -> None:
        raise ValueError

    for number in range(3):
        bench.make_due()
        await bench.sweep(raises)
        assert bench.rows()[entry_id][2] == 2 + number
    bench.make_due()
    await bench.sweep(lambda entries: {entries[0].entry_id: Retry()})
    assert bench.rows()[entry_id][2] == 5


async def test_a_lost_reply_before_the_code_starts_is_no_attempt(bench: Bench) -> None:
    ids = bench.abandon(3)
    calls: list[int] = []
    janitor = bench.janitor(lambda entries: calls.extend(one.deliveries for one in entries), HANDLER_BATCH="3")
    lost = Lost(janitor, is_claim)
    report = await bench.tick(janitor)
    assert lost.lost == 1
    assert (report.handled, calls) == (3, [2] * len(ids))


async def test_a_rival_s_claim_is_not_taken_for_the_one_whose_reply_was_lost(bench: Bench) -> None:
    """A rival of our name claims first, so our own claim, whose reply is lost, took nothing."""
    (entry_id,) = bench.abandon()
    called: list[Entry] = []
    janitor = bench.janitor(called.extend)
    seen = wire(janitor)

    def rival_first(command: Command) -> None:
        if is_claim(command) and bench.rows()[entry_id][2] == 1:
            bench.scene.raw.execute_command(
                "XCLAIM", bench.scene.stream, bench.scene.group, "janitor", 0, entry_id, "RETRYCOUNT", 3, "JUSTID"
            )

    seen.before = rival_first
    Lost(janitor, is_claim)
    report = await bench.tick(janitor)
    assert (called, report.handled) == ([], 0)
    assert report.unknown + report.lost_race == 1


async def test_budget_spent_between_the_claim_and_the_code_is_no_attempt(bench: Bench) -> None:
    (entry_id,) = bench.abandon()
    called: list[Entry] = []
    janitor = bench.janitor(called.extend, SWEEP_BUDGET_SEC="4", HANDLER_TIMEOUT_SEC="2")
    seen = wire(janitor)

    async def slow_reply(command: Command, reply: object) -> None:
        if is_claim(command):
            await asyncio.sleep(1.5)

    seen.after = slow_reply
    report = await bench.tick(janitor)
    assert (called, report.retried, report.candidates, report.error) == ([], 1, 1, None)
    assert bench.rows()[entry_id][2] == 1
    assert bench.rows()[entry_id][1] >= 10_000, "due as before"


async def test_a_stop_before_the_code_starts_is_no_attempt_and_what_runs_is_finished(bench: Bench) -> None:
    bench.abandon(5)
    started, go_on = threading.Event(), threading.Event()

    def slow(entries: list[Entry]) -> None:
        started.set()
        go_on.wait(60)

    janitor = bench.janitor(slow, HANDLER_CONCURRENCY="1")
    tick = asyncio.create_task(bench.tick(janitor))
    while not started.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    janitor.sweeps[0].stop()
    go_on.set()
    report = await tick
    assert (report.handled, report.candidates, report.complete) == (1, 1, False)
    assert [deliveries for _, _, deliveries in bench.rows().values()] == [1] * 4


# --- what the verdict's own reply may meet --------------------------------------------------------------------------------


async def test_a_lost_acknowledgement_calls_nobody_twice_and_is_unknown(bench: Bench) -> None:
    bench.abandon()
    calls: list[Entry] = []
    janitor = bench.janitor(calls.extend)
    lost = Lost(janitor, is_ack)
    report = await bench.tick(janitor)
    assert (lost.lost, len(calls), report.unknown, bench.scene.pending()) == (1, 1, 1, 0)


async def test_a_lost_give_back_is_repeated(bench: Bench) -> None:
    (entry_id,) = bench.abandon()
    janitor = bench.janitor(lambda entries: {entries[0].entry_id: Retry(after_s=3)})
    lost = Lost(janitor, is_fence)
    report = await bench.tick(janitor)
    assert (lost.lost, report.retried, bench.rows()[entry_id][2]) == (1, 1, 2)


async def test_an_undone_attempt_is_not_undone_twice(bench: Bench) -> None:
    """A repetition would act on the claim of a rival of our name, which shows our old count (test_fence.py)."""
    (entry_id,) = bench.abandon()
    janitor = bench.janitor(lambda entries: Unavailable("down"))
    seen = wire(janitor)
    sent: list[Command] = []

    def note(command: Command, reply: object) -> None:
        if is_fence(command) and not isinstance(reply, Exception):  # not one that the server did not know yet
            sent.append(command)

    seen.after = note
    Lost(janitor, is_fence)
    await bench.tick(janitor)
    assert len(sent) == 1
    assert bench.rows()[entry_id][2] == 1


async def test_a_dead_letter_is_acknowledged_only_once_it_is_there(bench: Bench) -> None:
    bench.abandon(2)
    janitor = bench.janitor(
        lambda entries: {one.entry_id: Dead("no such customer") for one in entries}, HANDLER_BATCH="2"
    )
    seen = wire(janitor)
    order: list[str] = []
    seen.after = lambda command, reply: order.append(str(command[0]))
    report = await bench.tick(janitor)
    assert (report.dead_lettered, len(bench.scene.dead_letters()), bench.scene.pending()) == (2, 2, 0)
    assert order.index("XADD") < order.index("XACK")


# --- several janitors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("janitor", "janitor"), ("one", "other")])
async def test_two_janitors_call_with_each_entry_once(bench: Bench, names: tuple[str, str]) -> None:
    bench.abandon(200)
    calls: Counter[str] = Counter()
    lock = threading.Lock()

    def counts(entries: list[Entry]) -> None:
        with lock:
            calls.update(one.entry_id for one in entries)

    reports = await asyncio.gather(
        *(bench.sweep(counts, MONITORING_CONSUMER_NAME=name, HANDLER_BATCH="7") for name in names)
    )
    assert set(calls.values()) == {1}
    assert (len(calls), sum(report.handled for report in reports), bench.scene.pending()) == (200, 200, 0)


async def test_a_claim_without_the_minimum_idle_time_calls_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the threshold on the claim itself is what keeps two janitors off one entry."""
    bench.abandon(100)
    calls: Counter[str] = Counter()
    lock = threading.Lock()

    def counts(entries: list[Entry]) -> None:
        with lock:
            calls.update(one.entry_id for one in entries)

    monkeypatch.setattr("monitor.actions.handle.HandleAction._threshold_ms", lambda self, deliveries: 0)
    janitors = [bench.janitor(counts, HANDLER_BATCH="7") for _ in range(2)]
    await asyncio.gather(*(janitor.tick() for janitor in janitors))
    assert max(calls.values()) > 1


async def test_the_rate_limit_holds_for_calls_too(bench: Bench) -> None:
    bench.abandon(20)
    report = await bench.sweep(
        lambda entries: None,
        RECOVERY_RATE_LIMIT="5",
        SWEEP_BUDGET_SEC="2.3",
        HANDLER_TIMEOUT_SEC="0.3",
        HANDLER_BATCH="2",
    )
    assert report.rate_limited
    assert report.handled in (5, 10)
    assert sorted(deliveries for _, _, deliveries in bench.rows().values()) == [1] * (20 - report.handled)


async def test_the_entry_s_trace_context_is_current_in_the_handler(bench: Bench) -> None:
    from opentelemetry.trace import get_current_span

    bench.scene.add("id", "1", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    bench.scene.abandon()
    seen: list[str] = []

    async def handler(entries: list[Entry]) -> None:
        seen.append(f"{get_current_span().get_span_context().trace_id:032x}")

    assert (await bench.sweep(handler)).handled == 1
    assert seen == ["0af7651916cd43dd8448eb211c80319c"]


async def test_durations_and_attempts_of_handlers_are_measured(bench: Bench) -> None:
    reader = InMemoryMetricReader()
    done, dead, *_ = (one.decode() for one in bench.abandon(3))
    settings = bench.settings(lambda entries: {done: Done, dead: Dead("bad")}, HANDLER_BATCH="3")
    janitor = Janitor(settings, telemetry._Telling(TracerProvider(), MeterProvider([reader]), is_ours=False))
    (report,) = await janitor.tick()
    await janitor.close()
    metrics = reader.get_metrics_data()
    assert metrics is not None
    resources = json.loads(metrics.to_json())["resource_metrics"]
    scopes = [scope for resource in resources for scope in resource["scope_metrics"]]
    points_of = {metric["name"]: metric["data"]["data_points"] for scope in scopes for metric in scope["metrics"]}
    points = points_of["stream_janitor.handler.attempts"]
    assert {point["attributes"]["stream_janitor.verdict"]: point["value"] for point in points} == {
        "done": 1, "dead": 1, "left_out": 1,
    }  # fmt: skip
    (duration,) = points_of["stream_janitor.handler.duration"]
    assert (duration["count"], report.handled) == (1, 1)


# --- every Redis ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=EXECUTABLES)
def any_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(search=False, executable=EXECUTABLES[request.param]()) as running:
        yield running


@pytest.fixture
async def anywhere(any_server: RedisServer, module: types.ModuleType) -> AsyncIterator[Bench]:
    client = raw_client(any_server)
    bench = Bench(new_scene(client, any_server.environment), module)
    yield bench
    await bench.close()
    client.config_set("maxmemory", 0)
    client.flushall()
    client.close()


async def test_it_is_the_same_on_every_redis(anywhere: Bench) -> None:
    done, dead, again, gone, taken = (one.decode() for one in anywhere.abandon(5))
    raw, scene = anywhere.scene.raw, anywhere.scene
    raw.execute_command("XDEL", scene.stream, gone)

    def handler(entries: list[Entry]) -> dict[str, object]:
        raw.execute_command("XCLAIM", scene.stream, scene.group, "janitor", 0, taken)
        return {done: Done, dead: Dead("bad"), again: Retry(), taken: Retry()}

    report = await anywhere.sweep(handler, HANDLER_BATCH="10")
    outcomes = (report.handled, report.dead_lettered, report.retried, report.deleted, report.lost_race, report.failed)
    assert outcomes == (1, 1, 1, 1, 1, 0)
    assert report.error is None
    assert {one.decode() for one in anywhere.rows()} == {again, taken}


async def test_a_deletion_while_the_code_runs_is_reported(anywhere: Bench) -> None:
    (entry_id,) = anywhere.abandon()

    def handler(entries: list[Entry]) -> dict[str, object]:
        anywhere.scene.raw.execute_command("XDEL", anywhere.scene.stream, entry_id)
        return {entries[0].entry_id: Retry()}

    report = await anywhere.sweep(handler)
    assert (report.deleted, anywhere.scene.pending()) == (1, 0)


async def test_a_full_server_is_no_reason_not_to_handle(anywhere: Bench) -> None:
    anywhere.abandon(3)
    anywhere.scene.raw.config_set("maxmemory", 1)
    report = await anywhere.sweep(lambda entries: None)
    assert (report.handled, report.error) == (3, None)


async def test_a_count_beyond_what_a_script_can_tell_apart_is_never_claimed(anywhere: Bench) -> None:
    (entry_id,) = anywhere.abandon()
    raw, scene = anywhere.scene.raw, anywhere.scene
    scene.age([entry_id], 60_000, "crashed", 2**63 - 1)
    script = attempt_script()
    arguments = script.named(group=scene.group, consumer="janitor", rate_limit=0, repeated_ms=-1)
    reply = raw.execute_command(
        "EVAL", script.text, 2, scene.stream, scene.stream, *arguments, entry_id, 10_000, 2**63 - 1
    )
    assert reply[2] == [b"lost"]
    assert scene.pending_rows()[0][1] == b"crashed"
