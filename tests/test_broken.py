"""What nobody foresaw: garbled replies, groups that go away, names with control characters, scripts that are forgotten."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from redis.exceptions import NoScriptError

from monitor.actions.two_ways import ASK_AGAIN_S
from monitor.janitor import log, raise_for
from shared.errors import TickFailed
from shared.names import printable, quoted
from shared.redis_client import Command, Reply
from tests.conftest import Scene, Sweeper, new_scene, wire


@pytest.mark.parametrize(
    "garbled", [7, [], [b"x"], {b"a": 1}, [[1, 2], [3, 4]], b"\xff", None], ids=lambda garbled: str(garbled)
)
async def test_a_garbled_reply_ends_its_sweep_and_no_other(
    scene: Scene, raw: Any, sweep: Sweeper, garbled: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    other = new_scene(raw, scene.environment)
    other.add_tweets(3)
    other.abandon()
    scene.add_tweets(3)
    scene.abandon()
    streams = [{"name": one.stream, "prefix": one.prefix, "schema": "off"} for one in (scene, other)]
    environment = {"STREAMS": json.dumps(streams), "STREAM_NAME": ""}
    janitor = sweep.janitor(scene.settings(**environment))
    call = janitor._link.call

    async def garble(*command: Any) -> Reply:
        reply = await call(*command)
        return garbled if command[0] == "XPENDING" and command[1] == scene.stream else reply

    janitor._link.call = garble  # type: ignore[method-assign]
    try:
        broken, fine = await janitor.tick()
        assert fine.processed == 3
        assert (broken.processed, scene.pending()) == (0, 3)
        if garbled:  # an empty page is a page
            assert "nobody foresaw" in str(broken.error)
            assert [record.levelname for record in caplog.records if hasattr(record, "report")].count("ERROR") == 1
            with pytest.raises(TickFailed):
                raise_for((broken, fine))
    finally:
        for key in list(other.keys()):
            raw.execute_command("DEL", key)
        for key in other.hashes():
            raw.execute_command("DEL", key)


async def test_an_error_of_ours_is_named_by_its_class_alone(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(1)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA="off"))

    async def fail(*command: Any) -> Reply:
        raise MemoryError("the entry's secret text")

    janitor._link.call = fail  # type: ignore[method-assign]
    (report,) = await janitor.tick()
    assert "MemoryError" in str(report.error)
    assert "secret" not in str(report)


async def test_a_group_that_goes_away_in_mid_sweep_gets_the_openings_advice(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(20)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, INDEX_SCHEMA="off"))
    seen = wire(janitor)

    def destroy(command: Command) -> None:
        if command[0] in ("XCLAIM", "EVALSHA") and len(command) > 6:
            scene.raw.execute_command("XGROUP", "DESTROY", scene.stream, scene.group)

    seen.before = destroy
    (report,) = await janitor.tick()
    assert f"create it with: XGROUP CREATE {scene.stream} {scene.group} 0 MKSTREAM" in str(report.error)


@pytest.mark.parametrize(
    ("name", "as_typed"),
    [
        ("tweets", "tweets"),
        ("my tweets", '"my tweets"'),
        ("a\nb", '"a\\nb"'),
        ('a"b', '"a\\"b"'),
        ("\x1b[2J", '"\\x1b[2J"'),
    ],
)
def test_advice_quotes_names_as_redis_cli_takes_them(name: str, as_typed: str) -> None:
    assert quoted(name) == as_typed


async def test_a_name_with_a_wildcard_gets_no_advice_to_create_it(scene: Scene, sweep: Sweeper) -> None:
    report = await sweep(scene.settings(STREAM_NAME="ev:*"))
    assert "no pattern" in str(report.error)
    assert "XGROUP CREATE" not in str(report.error)


def test_control_characters_in_names_stay_out_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    from tests.test_report import report_with

    report = report_with(stream="a\nINFO forged", group="g\x1b[2J", error="x")
    caplog.set_level(logging.DEBUG)
    log(report)
    with pytest.raises(TickFailed) as failed:
        raise_for((report,))
    for text in (caplog.messages[-1], str(failed.value)):
        assert text.isprintable()
        assert "a\\nINFO forged/g\\x1b[2J" in text
    assert printable("ä b") == "ä b"


async def test_scripts_that_are_forgotten_while_the_server_is_asked_are_no_reason_for_gather(
    scene: Scene, sweep: Sweeper
) -> None:
    scene.add_tweets(5)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA="off"))
    seen, forgotten = wire(janitor), 0

    def forget(command: Command) -> None:
        nonlocal forgotten
        if command[0] == "EVALSHA" and forgotten < 3:
            forgotten += 1
            raise NoScriptError("NOSCRIPT No matching script")

    seen.before = forget
    (report,) = await janitor.tick()
    assert (report.settle_mode, report.processed, report.error) == ("script", 5, None)
    assert forgotten == 3


async def test_gather_that_the_server_asked_for_asks_again_after_some_minutes(
    scene: Scene, sweep: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    may = False

    async def why_not(*_: Any) -> str | None:
        return None if may else "NOPERM EXISTS"

    monkeypatch.setattr("monitor.actions.store.script_is_allowed", why_not)
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA="off"))

    async def mode_of_a_sweep() -> str:
        scene.add_tweets(1)
        scene.abandon()
        (report,) = await janitor.tick()
        return report.settle_mode

    assert await mode_of_a_sweep() == "gather"
    may = True
    assert await mode_of_a_sweep() == "gather", "not in every sweep"
    resume = janitor._resume[janitor.settings.streams[0]]
    assert resume.ask_again_s is not None
    assert 0 < resume.ask_again_s - time.monotonic() <= ASK_AGAIN_S
    resume.ask_again_s = 0.0
    assert await mode_of_a_sweep() == "script"
