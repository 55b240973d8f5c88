"""A server whose clock is set back: nothing is abandoned until it passes, and everything that shows an age says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.redis import RedisServer, find_server
from monitor.server_clock import AHEAD_MS, RIGHT, ServerClock, verdict
from tests.cli import inside
from tests.conftest import Scene, Sweeper, new_scene, raw_client, wire

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("ahead_ms", "idle_ms", "later_ms", "expected"),
    [
        (-5, 0, 0, RIGHT),
        (0, 0, 0, RIGHT),
        (AHEAD_MS, 0, 0, RIGHT),
        (AHEAD_MS + 1, 0, 0, ServerClock(AHEAD_MS + 1, True)),
        (HOUR_MS, 0, 0, ServerClock(HOUR_MS, True)),
        (HOUR_MS, 0, 20, ServerClock(HOUR_MS, False)),  # made up by its producer, and delivered this very millisecond
        (HOUR_MS, 7, 7, ServerClock(HOUR_MS, False)),
        (HOUR_MS, None, None, ServerClock(HOUR_MS, False)),
        (HOUR_MS, 0, None, ServerClock(HOUR_MS, False)),
        (HOUR_MS, -1, -1, ServerClock(HOUR_MS, False)),  # released (XNACK)
    ],
)
def test_only_ids_far_ahead_that_do_not_age_prove_a_clock_that_was_set_back(
    ahead_ms: int, idle_ms: int | None, later_ms: int | None, expected: ServerClock
) -> None:
    assert verdict(ahead_ms, idle_ms, later_ms) == expected


# --- a real server whose clock can be set ------------------------------------------------------------------------------------


@dataclass
class Clocked:
    scene: Scene
    setting: Path

    def set_back(self, hours: int) -> None:
        self.setting.write_text(f"-{hours}h\n")
        began_s = time.monotonic()
        while abs(int(self.scene.raw.execute_command("TIME")[0]) - time.time() + 3600 * hours) > 60:
            assert time.monotonic() - began_s < 30
            time.sleep(0.01)


@pytest.fixture
def clocked(tmp_path: Path) -> Iterator[Clocked]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime (Debian: faketime) is not there to set a server's clock")
    setting, program = tmp_path / "clock", tmp_path / "redis-server"
    setting.write_text("+0\n")
    real = find_server(search=False).executable
    program.write_text(
        f"#!/bin/sh\nLD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={setting} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 "
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    with RedisServer(search=False, executable=program) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, INDEX_SCHEMA="off", MIN_IDLE_TIME_SEC="1")
        for number in range(3):
            scene.add("id", number, entry_id="*")
        scene.deliver()
        yield Clocked(scene, setting)
        client.close()


async def test_a_sweep_says_that_the_clock_was_set_back_and_gives_no_age(
    clocked: Clocked, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    clocked.set_back(1)
    report = await sweep(clocked.scene.settings())
    assert (report.pending, report.candidates, report.oldest_pending_age_s) == (3, 0, None)
    assert "3 pending, age unknown" in str(report)
    assert "the server's clock was set back: pending ids lie up to 36" in str(report)
    assert (report.error, report.is_quiet) == (None, False)
    assert [record.levelname for record in caplog.records if hasattr(record, "report")] == ["WARNING"]


def test_status_check_and_doctor_say_so_too(clocked: Clocked) -> None:
    scene = clocked.scene
    assert inside(scene.environment, "check", "--max-age", "900").code == 0
    clocked.set_back(1)
    assert "age unknown" in inside(scene.environment, "status").out
    assert "clock was set back" in inside(scene.environment, "status").out
    checked = inside(scene.environment, "check", "--max-age", "900", "--json")
    assert (checked.code, checked.record["oldest_pending_age_s"]) == (4, None)
    assert checked.record["breached"] == ["server_clock"]
    assert "fine" not in inside(scene.environment, "check", "--max-age", "900").out
    doctor = inside(scene.environment, "doctor")
    assert doctor.code == 1
    assert "clock was set back" in doctor.out


async def test_with_the_clock_right_again_all_is_recovered(clocked: Clocked, sweep: Sweeper) -> None:
    clocked.set_back(1)
    await sweep(clocked.scene.settings())
    clocked.set_back(0)
    clocked.scene.age([row[0] for row in clocked.scene.pending_rows()])  # type: ignore[misc]
    began_s, report = time.monotonic(), await sweep(clocked.scene.settings())
    while not report.processed and time.monotonic() < began_s + 60:  # until the entries are a second old by their ids
        assert report.server_clock is None
        report = await sweep(clocked.scene.settings())
    assert (report.processed, report.server_clock, clocked.scene.pending()) == (3, None, 0)


# --- ids that producers make up -----------------------------------------------------------------------------------------------


async def test_made_up_ids_are_noted_once_at_info_and_recovered(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    """The control: far ahead as well, but they age."""
    caplog.set_level(logging.INFO, "monitor")
    ahead = int(time.time() * 1000) + HOUR_MS
    scene.add("id", 1, entry_id=f"{ahead}-0")
    scene.abandon()
    janitor = sweep.janitor(scene.settings())
    (report,) = await janitor.tick()
    assert (report.processed, report.server_clock, report.oldest_pending_age_s) == (1, None, 0)
    scene.add("id", 2, entry_id=f"{ahead}-1")
    scene.abandon()
    await janitor.tick()
    notes = [record for record in caplog.records if "as their producers make them" in record.getMessage()]
    assert [record.levelname for record in notes] == ["INFO"]


async def test_nothing_more_is_asked_while_ids_are_not_ahead(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(2)
    scene.deliver()
    janitor = sweep.janitor(scene.settings(MIN_IDLE_TIME_SEC="3600"))
    await janitor.tick()
    seen = wire(janitor)
    await janitor.tick()
    assert len(seen.sent("XPENDING")) == 2  # the summary, and one page
