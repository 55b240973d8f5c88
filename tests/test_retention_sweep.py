"""Retention within a sweep: when it runs, what the report and the log say of it, what it may not do, and the dead letters."""

from __future__ import annotations

import json
import logging

import pytest
import redis

from demo.cluster import RedisCluster
from demo.redis import RedisServer
from monitor import stream_retention
from monitor.report import SweepReport
from monitor.scripts import retention_script
from monitor.stream_retention import StreamRetention
from shared.redis_client import ServerLink
from tests import acl
from tests.cli import make_dead_letters
from tests.collector import Collector
from tests.conftest import Scene, Sweeper, new_scene, wire
from tests.fronts import Command, Judging
from tests.retaining import HOUR_MS, Kept, until
from tests.sharded import client_of
from tests.test_acl import SETTLING, Users
from tests.test_telemetry import collector as collector  # a fixture
from tests.test_telemetry import tick

RETAIN = {"RETAIN_SEC": "3600"}
NO_INDEX = {"INDEX_SCHEMA": "off"}


@pytest.fixture(autouse=True)
def _nothing_was_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_retention, "_warned_at_s", {})


def finished(scene: Scene, count: int) -> list[bytes]:
    """Entries a day old that the group has read and acknowledged."""
    ids = scene.add_tweets(count)
    Kept(scene.raw, scene.stream).finish(scene.group)
    return ids


def length(scene: Scene) -> int:
    return int(scene.raw.execute_command("XLEN", scene.stream))


# --- when it runs -----------------------------------------------------------------------------------------------------------


async def test_what_a_sweep_settled_is_trimmed_after_its_look_at_the_index(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(300)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, **RETAIN))
    seen = wire(janitor)
    trims = retention_script().sha1
    at_look: list[int] = []
    seen.after = lambda command, reply: at_look.append(length(scene)) if command[0] == "FT.INFO" else None
    (report,) = await janitor.tick()
    assert (report.processed, report.trimmed, report.stream_length, length(scene)) == (300, 299, 1, 1)
    assert (report.complete, report.error, report.retention) == (True, None, None)
    last_look = max(at for at, command in enumerate(seen.commands) if command[0] == "FT.INFO")
    last_trim = max(at for at, command in enumerate(seen.commands) if command[:2] == ("EVALSHA", trims))
    assert last_look < last_trim
    assert set(at_look) == {300}
    assert len(scene.hashes()) == 300


async def test_an_idle_tick_is_one_round_trip_that_trims_too(scene: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(scene.settings(**RETAIN, DEAD_LETTER_RETAIN_SEC="3600"))
    await janitor.tick()  # makes the index and loads the script
    finished(scene, 90)
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert (seen.round_trips, report.trimmed, length(scene)) == (1, 89, 1)
    (report,) = await janitor.tick()
    assert (seen.round_trips, report.trimmed, report.is_quiet) == (2, 0, True)


async def test_an_idle_tick_that_finds_more_goes_on(scene: Scene, sweep: Sweeper) -> None:
    finished(scene, 3_000)
    report = await sweep(scene.settings(**RETAIN))
    assert (report.trimmed, length(scene)) == (2_999, 1)


async def test_without_retain_sec_nothing_of_it_is_sent(scene: Scene, sweep: Sweeper) -> None:
    finished(scene, 300)
    janitor = sweep.janitor(scene.settings())
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert (report.trimmed, report.stream_length, length(scene)) == (0, None, 300)
    assert {command[0] for command in seen.commands} == {"XPENDING", "TIME", "FT.INFO", "FT._LIST", "FT.CREATE"}


async def test_a_stopped_sweep_begins_no_slice(scene: Scene, sweep: Sweeper) -> None:
    finished(scene, 3_000)
    janitor = sweep.janitor(scene.settings(**RETAIN, **NO_INDEX))
    seen = wire(janitor)

    def stop(command: Command) -> None:
        if len(seen.sent("EVALSHA")) == 2:
            janitor.sweeps[0].stop()

    seen.before = stop  # type: ignore[assignment]
    (report,) = await janitor.tick()
    assert 0 < report.trimmed < 2_999
    assert length(scene) == 3_000 - report.trimmed


async def test_a_server_that_is_full_is_trimmed_all_the_same(own_scene: Scene, sweep: Sweeper, mode: str) -> None:
    """It has room again then, and what could not be stored is stored."""
    finished(own_scene, 300)
    own_scene.add_tweets(5, first=1_000)
    own_scene.abandon()
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", 1)
    (report,) = await sweep.janitor(own_scene.settings(SETTLE_MODE=mode, **RETAIN)).tick()
    assert "OOM" in str(report.error) or "memory" in str(report.error)
    assert (report.trimmed, own_scene.pending(), length(own_scene)) == (300, 5, 5)


async def test_two_groups_of_one_stream_are_retained_together(scene: Scene, sweep: Sweeper) -> None:
    """The first of the two items sees to it; the other group holds what it has pending, and no glob lets it go."""
    kept = Kept(scene.raw, scene.stream)
    kept.group("second")
    ids = finished(scene, 300)
    kept.acknowledge(kept.read("second")[:200], "second")
    items = json.dumps([{"name": scene.stream, "group": group} for group in (scene.group, "second")])
    changes = {"STREAM_NAME": "", "STREAMS": items, "RETAIN_IGNORE_GROUPS": "*", "MIN_IDLE_TIME_SEC": "999"}
    janitor = sweep.janitor(scene.settings(**changes, **RETAIN, **NO_INDEX))
    first, second = await janitor.tick()
    assert (first.trimmed, second.trimmed, kept.ids()) == (200, 0, ids[200:])
    assert str(first.retention).startswith("held by group second at")


async def test_a_dry_run_adds_nothing_to_the_opening_and_says_what_would_go(scene: Scene, link: ServerLink) -> None:
    """As ACTION=observe has it."""
    finished(scene, 300)
    old_letters(scene, 50)
    (settings,) = scene.settings(**RETAIN, DEAD_LETTER_RETAIN_SEC="3600").streams
    both = StreamRetention(link, settings, dry_run=True)
    assert both.opening() == []
    both.opened([])
    await both.run(until(link))
    assert both.stream is not None
    assert both.dead_letters is not None
    assert str(both.stream.line).startswith("would trim 299 before")
    assert (both.dead_letters.would_trim, length(scene), len(scene.dead_letters())) == (50, 300, 50)


# --- what it says -----------------------------------------------------------------------------------------------------------


async def test_the_report_names_the_group_that_holds_the_stream(scene: Scene, sweep: Sweeper) -> None:
    Kept(scene.raw, scene.stream).group("audit")
    finished(scene, 300)
    report = await sweep(scene.settings(**RETAIN))
    assert (report.trimmed, length(scene)) == (0, 300)
    assert "retention: held by group audit at 0-0 (0 pending, 300 unread)" in str(report)
    assert report.as_dict()["retention"] == "held by group audit at 0-0 (0 pending, 300 unread)"


async def test_the_group_that_holds_is_warned_of_once_an_hour(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept(scene.raw, scene.stream).group("audit")
    finished(scene, 300)
    janitor = sweep.janitor(scene.settings(**RETAIN))
    with caplog.at_level(logging.WARNING, "monitor"):
        for _ in range(3):
            await janitor.tick()
        assert [record.getMessage() for record in caplog.records] == [
            f"{scene.stream}: retention: held by group audit at 0-0 (0 pending, 300 unread)"
        ]
        monkeypatch.setattr(stream_retention, "WARN_EVERY_S", 0.0)
        await janitor.tick()
    assert len(caplog.records) == 2


async def test_a_groups_name_steers_no_terminal(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, b"a\x1b[2J\r\n\xff" + b"x" * 5_000, "0")
    finished(scene, 300)
    report = await sweep(scene.settings(**RETAIN))
    assert str(report).isprintable()
    assert len(str(report)) < 400


async def test_a_stream_that_is_left_alone_is_named(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 50):
        scene.add("id", number, entry_id=f"{number}-0")
    Kept(scene.raw, scene.stream).finish(scene.group)
    report = await sweep(scene.settings(**RETAIN))
    assert report.retention == "left alone: its ids are no times: all lie before 2015"
    assert (report.trimmed, length(scene)) == (0, 49)
    assert f"{scene.stream}: retention: left alone" in caplog.text


def test_metrics_tell_the_length_what_was_trimmed_and_how_long_it_is_held(scene: Scene, collector: Collector) -> None:
    kept = Kept(scene.raw, scene.stream)
    ids = finished(scene, 300)
    kept.group("audit", ids[99].decode())
    tick({**scene.environment, **RETAIN}, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    told = {name: metric.points[0].value for name, metric in collector.metrics().items()}
    assert told["stream_janitor.trimmed"] == 99
    assert told["stream_janitor.stream.length"] == length(scene) == 201
    a_day_less_an_hour_s = 23 * 3600
    assert told["stream_janitor.retention.held"] == pytest.approx(a_day_less_an_hour_s, abs=600)


# --- dead letters -----------------------------------------------------------------------------------------------------------


def old_letters(scene: Scene, count: int) -> list[bytes]:
    """Dead letters that have lain there for a day."""
    return Kept(scene.raw, f"{scene.stream}:dead").add(count)


async def test_dead_letters_are_thrown_away_by_age(scene: Scene, sweep: Sweeper) -> None:
    old_letters(scene, 150)
    young = make_dead_letters(scene, 2)
    report = await sweep(scene.settings(DEAD_LETTER_RETAIN_SEC="3600"))
    assert (report.dead_letters_trimmed, report.trimmed) == (150, 0)
    assert [letter[0] for letter in scene.dead_letters()] == young
    assert "150 dead letters thrown away" in str(report)
    assert not report.is_quiet


async def test_dead_letters_that_a_group_needs_remain(scene: Scene, sweep: Sweeper) -> None:
    letters = old_letters(scene, 150)
    dead = Kept(scene.raw, f"{scene.stream}:dead")
    dead.group("mailer")
    dead.finish("mailer", 100)
    report = await sweep(scene.settings(DEAD_LETTER_RETAIN_SEC="3600"))
    assert (report.dead_letters_trimmed, dead.ids()) == (99, letters[99:])


async def test_by_default_dead_letters_remain(scene: Scene, sweep: Sweeper) -> None:
    old_letters(scene, 150)
    report = await sweep(scene.settings(**RETAIN))
    assert (report.dead_letters_trimmed, len(scene.dead_letters())) == (0, 150)


# --- rights, old servers, clusters --------------------------------------------------------------------------------------------

RETAINING = (acl.DEAD_LETTERS, acl.RETENTION, acl.DEAD_LETTER_RETENTION)


@pytest.fixture
def users(raw: redis.Redis) -> object:
    users = Users(raw)
    yield users
    users.delete()


async def under(scene: Scene, sweep: Sweeper, users: Users, mode: str, without: str) -> SweepReport:
    finished(scene, 300)
    old_letters(scene, 50)
    scene.raw.execute_command("SCRIPT", "FLUSH")
    login = users.login(scene, [SETTLING[mode], *RETAINING], without=without)
    changes = {**RETAIN, **NO_INDEX, "DEAD_LETTER_RETAIN_SEC": "3600", "SETTLE_MODE": mode, "SWEEP_BUDGET_SEC": "3"}
    (report,) = await sweep.janitor(scene.settings(**changes, **login)).tick()
    return report


async def test_retention_runs_under_its_rights(scene: Scene, sweep: Sweeper, users: Users, mode: str) -> None:
    report = await under(scene, sweep, users, mode, without="")
    assert (report.trimmed, report.dead_letters_trimmed, report.error) == (299, 50, None)


@pytest.mark.parametrize("right", ["+xtrim", "+xinfo|groups", "+evalsha", "+script|load"])
async def test_a_right_that_retention_lacks_is_named_and_nothing_is_trimmed(
    scene: Scene, sweep: Sweeper, users: Users, right: str
) -> None:
    report = await under(scene, sweep, users, "gather", without=right)
    assert right.split("|")[0] in str(report.error)
    assert (report.trimmed, length(scene)) == (0, 300)


async def test_the_length_is_not_needed(scene: Scene, sweep: Sweeper, users: Users) -> None:
    report = await under(scene, sweep, users, "gather", without="+xlen")
    assert (report.trimmed, report.stream_length, report.error) == (299, None, None)


def test_the_script_calls_nothing_that_its_line_does_not_name() -> None:
    import re

    called = {name.lower() for name in re.findall(r"redis\.p?call\('(\w+)'", retention_script().text)}
    words = [word for line in (acl.GATHER, acl.RETENTION) for word in acl.words(line)]
    assert called <= {word.strip("+").split("|")[0] for word in words}


async def test_a_server_without_minid_is_refused_by_name(scene: Scene, sweep: Sweeper, server: RedisServer) -> None:
    """Redis 6.0: no server of that age is at hand; the script is one in which the id that it tries is none."""
    script = retention_script()
    finished(scene, 300)
    text = script.text.replace("'(0-0'", "'(none'")
    assert text != script.text
    arguments = script.named(retain_ms=HOUR_MS, limit=100, task="trim", needs_group=True, own_count=0)
    reply = scene.raw.execute_command("EVAL", text, 1, scene.stream, *arguments)
    assert dict(zip(reply[::2], reply[1::2], strict=True))[b"state"] == b"old"

    def judge(command: Command) -> str | None:
        return "ERR unknown command `EVALSHA`, with args beginning with: " if command[0] == b"EVALSHA" else None

    async with Judging(server.port, judge) as front:
        changes = {**RETAIN, **NO_INDEX, "SETTLE_MODE": "gather", **front.environment}
        (report,) = await sweep.janitor(scene.settings(**changes)).tick()
    assert "NOCOMMAND" in str(report.error)
    assert "retention" in str(report.error)


async def test_a_stream_in_a_cluster_is_retained_in_its_shard(cluster: RedisCluster, sweep: Sweeper, mode: str) -> None:
    scene = new_scene(client_of(cluster), cluster.environment)
    finished(scene, 300)
    scene.add_tweets(5, first=1_000)
    scene.abandon()
    for number in range(50):
        scene.raw.execute_command("XADD", f"{scene.stream}:dead", f"{1_600_000_000_000 + number}-0", "f", "v")
    # A script may settle only what lies in the stream's slot; retention is one either way.
    changes = {**RETAIN, **NO_INDEX, "DEAD_LETTER_RETAIN_SEC": "3600", "SETTLE_MODE": "gather"}
    if mode == "script":
        changes |= {"SETTLE_MODE": "script", "HASH_PREFIX": f"{{{scene.stream}}}:tweet:"}
    report = await sweep(scene.settings(**changes))
    assert (report.processed, report.trimmed, report.dead_letters_trimmed, report.error) == (5, 304, 50, None)


async def test_under_observe_a_sweep_says_what_would_be_trimmed_and_trims_nothing(scene: Scene, sweep: Sweeper) -> None:
    finished(scene, 300)
    scene.add_tweets(1)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(ACTION="observe", **RETAIN))
    seen = wire(janitor)
    (report,) = await janitor.tick()
    assert report.error is None
    assert (report.trimmed, length(scene), scene.pending()) == (0, 301, 1)
    assert "300" in str(report.retention), report.retention
    assert not [command for command in seen.commands if command[0] in ("XTRIM", "XCLAIM", "XACK")]
