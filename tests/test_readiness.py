"""Ready: Redis answered in the last finished attempt. What stops a roll-out, and what must not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.redis import RedisServer
from monitor import heartbeat
from tests.cli import eventually, start
from tests.conftest import Scene, new_scene, raw_client

EVERY_TWO_SECONDS = {"MONITOR_SCHEDULE": "*/2 * * * * *", "SWEEP_BUDGET_SEC": "1.9"}


def is_alive(beats: Path) -> bool:
    return heartbeat.main([str(beats)]) == 0


def is_ready(beats: Path) -> bool:
    return heartbeat.main(["--ready", str(beats)]) == 0


@contextmanager
def running(environment: Mapping[str, str], beats: Path) -> Iterator[None]:
    process = start({**environment, **EVERY_TWO_SECONDS}, "run", "--heartbeat", str(beats))
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def two_attempts(beats: Path) -> None:
    """Wait until two more attempts were finished."""
    eventually(beats.exists, within_s=60)
    for _ in range(2):
        seen = beats.read_text()
        eventually(lambda seen=seen: beats.read_text() != seen, within_s=60)  # type: ignore[misc]


def test_a_backlog_stops_no_roll_out(scene: Scene, tmp_path: Path) -> None:
    """Entries too young to be taken up, a day old: `check --max-age` calls them a breach."""
    scene.add_tweets(1000)
    scene.deliver()
    beats = tmp_path / "beat"
    with running({**scene.environment, "MIN_IDLE_TIME_SEC": "86400"}, beats):
        eventually(lambda: beats.exists() and is_ready(beats), within_s=60)
        two_attempts(beats)
        eventually(lambda: is_ready(beats), within_s=60)
    assert scene.pending() == 1000


def test_a_wrong_password_stops_a_roll_out(scene: Scene, tmp_path: Path) -> None:
    beats = tmp_path / "beat"
    scene.raw.execute_command("ACL", "SETUSER", "locked", "on", ">right", "~*", "+@all")
    try:
        with running({**scene.environment, "REDIS_USERNAME": "locked", "REDIS_PASSWORD": "wrong"}, beats):
            two_attempts(beats)
            assert is_alive(beats)
            assert not is_ready(beats)
    finally:
        scene.raw.execute_command("ACL", "DELUSER", "locked")


def test_control_the_right_password_is_ready(scene: Scene, tmp_path: Path) -> None:
    beats = tmp_path / "beat"
    scene.raw.execute_command("ACL", "SETUSER", "opened", "on", ">right", "~*", "+@all")
    try:
        with running({**scene.environment, "REDIS_USERNAME": "opened", "REDIS_PASSWORD": "right"}, beats):
            eventually(lambda: beats.exists() and is_ready(beats), within_s=60)
    finally:
        scene.raw.execute_command("ACL", "DELUSER", "opened")


def test_a_server_that_takes_no_writes_stops_no_roll_out(scene: Scene, tmp_path: Path) -> None:
    scene.add_tweets(3)
    scene.abandon()
    scene.raw.execute_command("ACL", "SETUSER", "reader", "on", ">right", "~*", "+@all", "-hset", "-evalsha")
    beats = tmp_path / "beat"
    try:
        with running({**scene.environment, "REDIS_USERNAME": "reader", "REDIS_PASSWORD": "right"}, beats):
            eventually(lambda: beats.exists() and is_ready(beats), within_s=60)
    finally:
        scene.raw.execute_command("ACL", "DELUSER", "reader")
    assert scene.pending() == 3


@pytest.mark.parametrize(("groups", "ready"), [(("redisearch_app_group", "nobody"), True), (("nobody",), False)])
def test_one_failing_stream_of_many_is_still_ready_and_all_of_them_are_not(
    scene: Scene, tmp_path: Path, groups: tuple[str, ...], ready: bool
) -> None:
    items = [
        {"name": scene.stream, "group": group, "prefix": f"{scene.prefix}{number}:", "index": f"{scene.index}{number}"}
        for number, group in enumerate(groups)
    ]
    environment = {**scene.environment, "STREAMS": json.dumps(items), "INDEX_SCHEMA": "off"}
    del environment["STREAM_NAME"]
    beats = tmp_path / "beat"
    with running(environment, beats):
        two_attempts(beats)
        eventually(lambda: is_ready(beats) == ready, within_s=60)


def test_before_the_first_finished_attempt_a_pod_lives_and_is_not_ready(scene: Scene, tmp_path: Path) -> None:
    beats = tmp_path / "beat"
    process = start({**scene.environment, "MONITOR_SCHEDULE": "0 0 0 1 1 *"}, "run", "--heartbeat", str(beats))
    try:
        eventually(beats.exists, within_s=60)
        assert is_alive(beats)
        assert not is_ready(beats)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_redis_going_away_ends_readiness_and_its_return_brings_it_back(tmp_path: Path) -> None:
    beats = tmp_path / "beat"
    with RedisServer(search=False) as server:
        raw = raw_client(server)
        scene = new_scene(raw, server.environment, INDEX_SCHEMA="off")
        with running(scene.environment, beats):
            eventually(lambda: beats.exists() and is_ready(beats), within_s=60)
            raw.close()
            server.kill()
            eventually(lambda: not is_ready(beats), within_s=60)
            assert is_alive(beats)
            server.start()
            raw = raw_client(server)
            raw.execute_command("XGROUP", "CREATE", scene.stream, scene.group, "0", "MKSTREAM")
            eventually(lambda: is_ready(beats), within_s=60)
        raw.close()


@pytest.mark.parametrize(("later_s", "code"), [(9.999, 0), (10.0, 1), (10.001, 1)])
def test_readiness_lasts_no_longer_than_the_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later_s: float, code: int
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    heartbeat.beat(tmp_path / "beat", 10.0, answered=True)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + later_s)
    assert heartbeat.main(["--ready", str(tmp_path / "beat")]) == code


def test_wrong_usage_is_told_apart_from_not_ready(tmp_path: Path) -> None:
    assert heartbeat.main(["--ready"]) == 2
    assert heartbeat.main(["--ready", str(tmp_path / "none")]) == 1
