"""Least privilege: the whole janitor under the ACL lines of the README, and once with each right taken away."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

import shared.redis_client
from demo.redis import RedisServer
from monitor.report import SweepReport
from monitor.scripts import (
    claim_script,
    document_script,
    reap_script,
    settle_script,
    store_script,
    touch_key_script,
    touch_script,
)
from shared.settings import Settings
from tests import acl
from tests.conftest import Scene, Sweeper, new_scene, raw_client
from tests.fronts import Command, Judging
from tests.test_old_redis import redis_6_2

README = Path(__file__).parent.parent / "README.md"

SETTLING = {"script": acl.SCRIPT, "gather": acl.GATHER}
CONFLICTS = {"overwrite": "", "newer": acl.NEWER, "keep": acl.KEEP}


@pytest.fixture
def stuck(scene: Scene) -> Scene:
    """Entries of every kind, left behind, and a consumer that is dead."""
    fill(scene)
    return scene


def fill(scene: Scene) -> None:
    scene.add_tweets(5)
    scene.add("user", "no id")
    scene.add("id", "a string")
    scene.raw.execute_command("SET", scene.prefix + "a string", "x")
    scene.add("id", "unsearchable", "number", "no number")
    scene.add("id", "held", "number", "2")
    scene.raw.execute_command("HSET", scene.prefix + "held", "stream_entry_id", "1-0", "old", "field")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)
    scene.raw.execute_command("XGROUP", "CREATECONSUMER", scene.stream, scene.group, "dead")


class Users:
    """Users of the worker's server that have the rights of some lines, under the scene's names."""

    def __init__(self, raw: redis.Redis) -> None:
        self._raw = raw
        self._names: list[str] = []

    def login(self, scene: Scene, lines: Sequence[str], without: str = "") -> dict[str, str]:
        """The settings with which the janitor logs in as somebody who has all these rights but ``without``."""
        name = f"{scene.stream}-user{len(self._names)}"
        self._names.append(name)
        rules = list(dict.fromkeys(rule for line in lines for rule in acl.words(line) if rule != without))
        names = {"tweets_stream": scene.stream, "tweet:": scene.prefix, "tweets-index": scene.index, "PASSWORD": "pw"}
        for default, own in names.items():
            rules = [rule.replace(default, own) for rule in rules]
        self._raw.execute_command("ACL", "SETUSER", name, "reset", *rules)
        return {"REDIS_USERNAME": name, "REDIS_PASSWORD": "pw"}

    def delete(self) -> None:
        for name in self._names:
            self._raw.execute_command("ACL", "DELUSER", name)


@pytest.fixture
def users(raw: redis.Redis) -> Iterator[Users]:
    users = Users(raw)
    yield users
    users.delete()


def lines_for(mode: str, on_conflict: str) -> list[str]:
    """What the whole janitor takes in this mode."""
    lines = (SETTLING[mode], acl.DEAD_LETTERS, acl.INDEX, CONFLICTS[on_conflict], acl.REAP)
    return [line for line in lines if line]


def settings_for(scene: Scene, mode: str, on_conflict: str, **changes: str) -> Settings:
    """Everything on; a consumer counts as dead after a millisecond."""
    wanted = {"SETTLE_MODE": mode, "ON_CONFLICT": on_conflict, "INDEX_SCHEMA": "id TEXT number NUMERIC"}
    slow = {"REAP_CONSUMERS_AFTER_SEC": "1", "REAP_KEEP": "crashed", "SWEEP_BUDGET_SEC": "3"}
    settings = scene.settings(**{**wanted, **slow, **changes})
    (stream,) = settings.streams
    return dataclasses.replace(settings, streams=(dataclasses.replace(stream, reap_after_ms=1),))


def outcomes(report: SweepReport) -> dict[str, int | str | None]:
    names = ("processed", "kept", "dead_lettered", "failed", "deleted", "unsearchable", "consumers_removed")
    return {name: getattr(report, name) for name in (*names, "index", "error")}


def assert_nothing_lost(scene: Scene) -> None:
    """Each entry is pending, or in its hash, or in the dead-letter stream."""
    pending = {row[0] for row in scene.pending_rows()}
    dead = {letter[1][5] for letter in scene.dead_letters()}  # type: ignore[index]
    for entry_id, fields in scene.raw.execute_command("XRANGE", scene.stream, "-", "+"):
        entry = dict(zip(fields[::2], fields[1::2], strict=True))
        is_stored = b"id" in entry and entry[b"id"] != b"a string" and entry.items() <= scene.hash(entry[b"id"]).items()
        is_kept = entry.get(b"id") == b"held" and scene.hash("held").get(b"old") == b"field"
        assert entry_id in pending or entry_id in dead or is_stored or is_kept, entry_id


async def assert_clean_sweep_drains(scene: Scene, sweep: Sweeper, settings: Settings) -> None:
    scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
    everything = dataclasses.replace(settings.redis, username=None, password=None)
    (report,) = await sweep.janitor(dataclasses.replace(settings, redis=everything)).tick()
    assert (report.error, scene.pending()) == (None, 0)
    assert_nothing_lost(scene)


WHOLE = {
    "processed": 7, "kept": 0, "dead_lettered": 2, "failed": 0, "deleted": 1, "unsearchable": 1, "consumers_removed": 1,
    "index": "ok", "error": None,
}  # fmt: skip


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer", "keep"])
async def test_whole_janitor_runs_under_these_rights(
    stuck: Scene, sweep: Sweeper, users: Users, mode: str, on_conflict: str
) -> None:
    login = users.login(stuck, lines_for(mode, on_conflict))
    report = await sweep(settings_for(stuck, mode, on_conflict, **login))
    kept = {"processed": 6, "kept": 1} if on_conflict == "keep" else {}
    assert outcomes(report) == {**WHOLE, **kept}
    assert (report.settle_mode, stuck.pending()) == (mode, 0)
    assert_nothing_lost(stuck)


def denied_rights() -> list[tuple[str, str, str]]:
    """Every right of every line, in each mode that takes it: the plain ones once, those of a conflict rule with it."""
    cases = set()
    for mode in SETTLING:
        plain = {rule for line in lines_for(mode, "overwrite") for rule in acl.words(line)}
        for on_conflict in CONFLICTS:
            every = {rule for line in lines_for(mode, on_conflict) for rule in acl.words(line)}
            for rule in plain if on_conflict == "overwrite" else every - plain:
                if rule[0] == "+" and rule not in NOT_IN_EVERY_SWEEP:
                    cases.add((mode, on_conflict, rule))
    return sorted(cases | {(mode, "newer", "+hdel") for mode in SETTLING})


NOT_IN_EVERY_SWEEP = {"+hincrby", "+expire", "+hdel", "+ping"}


@pytest.mark.parametrize(("mode", "on_conflict", "right"), denied_rights())
async def test_missing_right_is_named_and_nothing_is_lost(
    stuck: Scene, sweep: Sweeper, users: Users, mode: str, on_conflict: str, right: str
) -> None:
    if right == "+script|load":  # the server may have the scripts of an earlier test
        stuck.raw.execute_command("SCRIPT", "FLUSH")
    login = users.login(stuck, lines_for(mode, on_conflict), without=right)
    settings = settings_for(stuck, mode, on_conflict, **login)
    (report,) = await sweep.janitor(settings).tick()
    told = f"{report.error} {report.index}"
    assert right.strip("+") in told.lower(), report
    is_only_told = right in ("+ft.info", "+ft.create")  # entries are recovered all the same
    assert (report.error is None) == is_only_told
    assert_nothing_lost(stuck)
    await assert_clean_sweep_drains(stuck, sweep, settings)


@pytest.mark.parametrize("key", ["~tweets_stream", "%W~tweet:*", "%W~tweets_stream:dead", "~tweets-index"])
async def test_missing_right_to_a_key_is_told_and_nothing_is_lost(
    stuck: Scene, sweep: Sweeper, users: Users, mode: str, key: str
) -> None:
    login = users.login(stuck, lines_for(mode, "overwrite"), without=key)
    settings = settings_for(stuck, mode, "overwrite", **login)
    (report,) = await sweep.janitor(settings).tick()
    told = f"{report.error} {report.index}"
    assert "right" in told or "NOPERM" in told, report
    assert_nothing_lost(stuck)
    await assert_clean_sweep_drains(stuck, sweep, settings)


STORED = {
    "json": ({"STORE_AS": "json"}, [acl.JSON], ["+json.set"]),
    "json keep": ({"STORE_AS": "json", "ON_CONFLICT": "keep"}, [acl.JSON], ["+json.set"]),
    "json ttl": ({"STORE_AS": "json", "STORE_TTL_SEC": "60"}, [acl.JSON, acl.TTL], ["+json.set", "+expire"]),
    "ttl": ({"STORE_TTL_SEC": "60"}, [acl.TTL], ["+expire", "+hset"]),
    "no ttl": ({"STORE_TTL_SEC": "0"}, [acl.TTL], ["+persist", "+hset"]),
    "newer ttl": ({"STORE_TTL_SEC": "60", "ON_CONFLICT": "newer"}, [acl.TTL, acl.NEWER], ["+expire"]),
}


@pytest.mark.parametrize("what", STORED)
async def test_documents_and_ttls_need_their_lines_and_each_right_of_them_is_named(
    scene: Scene, sweep: Sweeper, users: Users, mode: str, what: str
) -> None:
    changes, lines, rights = STORED[what]
    changes = {
        **changes,
        "SETTLE_MODE": "auto" if mode == "script" else mode,
        "INDEX_SCHEMA": "off",
        "SWEEP_BUDGET_SEC": "3",
    }
    scene.add("id", "1", "text", "x")
    scene.abandon()
    for right in rights:
        login = users.login(scene, [SETTLING[mode], *lines], without=right)
        (report,) = await sweep.janitor(scene.settings(**changes, **login)).tick()
        assert right in str(report.error), report
        assert (scene.pending(), scene.hashes()) == (1, []), "nothing is written without it"
        scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
    report = await sweep(scene.settings(**changes, **users.login(scene, [SETTLING[mode], *lines])))
    assert (report.processed, report.error, report.settle_mode) == (1, None, mode)


async def test_kept_documents_need_their_line_where_replicas_confirm(sweep: Sweeper) -> None:
    with RedisServer() as primary, RedisServer(arguments=("--replicaof", "127.0.0.1", str(primary.port))) as replica:
        client, copy = raw_client(primary), raw_client(replica)
        while b"master_link_status:up" not in copy.execute_command("INFO", "replication"):
            pass
        scene = new_scene(client, primary.environment, INDEX_SCHEMA="off", STORE_AS="json", ON_CONFLICT="keep")
        for key_id, ttl_s in (("1", 0), ("2", 500)):
            client.execute_command("JSON.SET", scene.prefix + key_id, "$", "{}")
            scene.add("id", key_id)
            if ttl_s:
                client.execute_command("EXPIRE", scene.prefix + key_id, ttl_s)
        scene.abandon()
        lines, users = [acl.GATHER, acl.JSON, acl.REPLICAS, acl.CONFIRMED_JSON], Users(client)
        for right in ("+pttl", "+pexpire", "+persist"):
            login = users.login(scene, lines, without=right)
            (report,) = await sweep.janitor(scene.settings(ACK_REPLICAS="1", **login)).tick()
            assert right in str(report.error), report
            scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
        report = await sweep(scene.settings(ACK_REPLICAS="1", **users.login(scene, lines)))
        assert (report.error, scene.pending()) == (None, 0)
        client.close()
        copy.close()


async def test_auto_gathers_where_the_user_may_run_no_scripts(stuck: Scene, sweep: Sweeper, users: Users) -> None:
    login = users.login(stuck, [acl.GATHER, acl.DEAD_LETTERS, acl.INDEX])
    settings = settings_for(stuck, "auto", "overwrite", **login, REAP_CONSUMERS_AFTER_SEC="0")
    (stream,) = settings.streams
    report = await sweep(dataclasses.replace(settings, streams=(dataclasses.replace(stream, reap_after_ms=0),)))
    assert (report.settle_mode, report.error, stuck.pending()) == ("gather", None, 0)


# --- an entry's own, unknown error: gather only, since a script's HSET knows none that could be brought about ------------------


def odd(command: Command) -> str | None:
    return "ODD nobody knows why" if command[0] == b"HSET" and command[1].endswith(b":odd") else None


@pytest.mark.parametrize("right", ["", "+hincrby", "+expire", "+hdel"])
async def test_rights_to_count_attempts_are_needed_and_named(
    scene: Scene, sweep: Sweeper, users: Users, server: RedisServer, right: str
) -> None:
    scene.add("id", "odd")
    scene.abandon()
    login = users.login(scene, [acl.GATHER, acl.DEAD_LETTERS], without=right)
    async with Judging(server.port, odd) as front:
        changes = {"INDEX_SCHEMA": "off", "SETTLE_MODE": "gather", "MAX_ATTEMPTS": "1", **front.environment, **login}
        (report,) = await sweep.janitor(scene.settings(**changes)).tick()
    if right:
        assert right in str(report.error)
        assert scene.pending() + len(scene.dead_letters()) >= 1
    else:
        assert (report.dead_lettered, report.error, scene.pending()) == (1, None, 0)


@pytest.mark.parametrize("right", ["", "+ping"])
async def test_ping_is_needed_and_named_once_a_connection_was_idle(
    scene: Scene, sweep: Sweeper, users: Users, monkeypatch: pytest.MonkeyPatch, right: str
) -> None:
    monkeypatch.setattr(shared.redis_client, "HEALTH_CHECK_INTERVAL_S", 0.3)
    login = users.login(scene, [acl.SCRIPT], without=right)
    janitor = sweep.janitor(scene.settings(INDEX_SCHEMA="off", **login))
    assert (await janitor.tick())[0].error is None
    await asyncio.sleep(0.4)  # the client's own clock
    (report,) = await janitor.tick()
    assert report.error is None if not right else right in str(report.error)


async def test_wait_is_needed_and_named_where_replicas_are_asked_for(
    scene: Scene, sweep: Sweeper, users: Users
) -> None:
    scene.add_tweets(1)
    scene.abandon()
    changes = {"INDEX_SCHEMA": "off", "ACK_REPLICAS": "1", "SWEEP_BUDGET_SEC": "3"}
    login = users.login(scene, [acl.GATHER, acl.DEAD_LETTERS])
    (report,) = await sweep.janitor(scene.settings(**changes, **login)).tick()
    assert "+wait" in str(report.error)
    assert scene.pending() == 1
    login = users.login(scene, [acl.GATHER, acl.DEAD_LETTERS, acl.REPLICAS])
    scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
    report = await sweep(scene.settings(**changes, **login))
    assert any("too few replicas" in reason for reason in report.reasons)


# --- other servers ----------------------------------------------------------------------------------------------------------


async def test_default_user_may_be_off(own_server: RedisServer, sweep: Sweeper, mode: str) -> None:
    """HELLO and AUTH are everybody's."""
    client = raw_client(own_server)
    client.execute_command("ACL", "SETUSER", "admin", "on", ">pw", "+@all", "~*", "&*")
    client.close()
    admin = raw_client(own_server, username="admin", password="pw")
    admin.execute_command("ACL", "SETUSER", "default", "off")
    scene = new_scene(admin, own_server.environment, INDEX_SCHEMA="off", SETTLE_MODE=mode)
    scene.add_tweets(2)
    scene.abandon()
    report = await sweep(scene.settings(**Users(admin).login(scene, [SETTLING[mode], acl.DEAD_LETTERS])))
    assert (report.processed, report.error) == (2, None)
    admin.close()


async def test_lines_for_redis_6_work_there(sweep: Sweeper) -> None:
    with RedisServer(search=False, executable=redis_6_2()) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment)
        scene.add_tweets(2)
        scene.add("user", "no id")
        scene.abandon()
        lines = [acl.for_redis_6(line) for line in (acl.GATHER, acl.DEAD_LETTERS, acl.NEWER, acl.REAP)]
        changes = {"INDEX_SCHEMA": "off", "ON_CONFLICT": "newer", "REAP_CONSUMERS_AFTER_SEC": "1"}
        report = await sweep(scene.settings(**changes, **Users(client).login(scene, lines)))
        assert (report.processed, report.dead_lettered, report.error, scene.pending()) == (2, 1, None, 0)
        client.close()


# --- the lines themselves ---------------------------------------------------------------------------------------------------


def test_readme_quotes_these_lines_and_no_others() -> None:
    quoted = {line.strip() for line in README.read_text().splitlines() if line.strip().startswith("ACL SETUSER")}
    assert quoted == set(acl.LINES)


def test_no_line_gives_more_than_named_commands_and_keys() -> None:
    rules = {rule for line in acl.LINES for rule in acl.words(line)}
    assert not {rule for rule in rules if rule.startswith(("+@", "allkeys", "nopass")) or rule in ("~*", "+eval")}


def test_scripts_call_nothing_that_no_line_names() -> None:
    made = (settle_script, store_script, reap_script, claim_script, touch_script, touch_key_script, document_script)
    called = {name.lower() for make in made for name in re.findall(r"call\('([\w.]+)'", make().text)}
    assert {"json.set", "expire", "hset"} <= called
    rights = {rule.strip("+").split("|")[0] for line in acl.LINES for rule in acl.words(line) if rule[0] == "+"}
    assert called <= rights
