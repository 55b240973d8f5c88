"""STORE_TTL_SEC: what is stored gets its expiry with the write, and what is not written keeps the one it has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from demo.redis import RedisServer
from monitor.scripts import store_script
from tests.conftest import Scene, Sweeper, new_scene, raw_client, wire
from tests.test_old_redis import EXECUTABLES

DAY_S = 86_400


def ttl(scene: Scene, tweet_id: str) -> int:
    """Seconds that the hash has to live; −1: it lives for good; −2: it is not there."""
    return int(scene.raw.execute_command("TTL", scene.prefix + tweet_id))


def held(scene: Scene, tweet_id: str, ttl_s: int | None, *fields: str) -> None:
    """A hash that is there already."""
    scene.raw.execute_command("HSET", scene.prefix + tweet_id, *(fields or ("text", "old")))
    if ttl_s is not None:
        scene.raw.execute_command("EXPIRE", scene.prefix + tweet_id, ttl_s)


def lives_for(seconds: int) -> Callable[[int], bool]:
    return lambda left: seconds - 100 < left <= seconds


@pytest.mark.parametrize("rule", ["overwrite", "newer", "keep"])
@pytest.mark.parametrize(
    ("setting", "new", "old"),
    [
        ("", lambda left: left == -1, lives_for(500)),
        ("0", lambda left: left == -1, lambda left: left == -1),
        (str(DAY_S), lives_for(DAY_S), lives_for(DAY_S)),
    ],
    ids=["empty", "0", "a day"],
)
async def test_a_write_sets_the_expiry_that_the_setting_says(
    scene: Scene, sweep: Sweeper, mode: str, rule: str, setting: str,
    new: Callable[[int], bool], old: Callable[[int], bool],
) -> None:  # fmt: skip
    """Of a new hash, and of one that lives for 500 s more."""
    held(scene, "old", 500)
    for tweet_id in ("new", "old"):
        scene.add("id", tweet_id, "text", "x")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=rule, STORE_TTL_SEC=setting))
    assert (report.error, scene.pending()) == (None, 0)
    assert new(ttl(scene, "new"))
    if rule == "keep":
        assert (report.kept, lives_for(500)(ttl(scene, "old"))) == (1, True)
    else:
        assert (report.processed, old(ttl(scene, "old"))) == (2, True)


@pytest.mark.parametrize("setting", ["0", str(DAY_S)])
@pytest.mark.parametrize(("ttl_s", "left"), [(500, lives_for(500)), (None, lambda left: left == -1)])
async def test_what_is_kept_or_superseded_keeps_its_expiry(
    scene: Scene, sweep: Sweeper, mode: str, setting: str, ttl_s: int | None, left: Callable[[int], bool]
) -> None:
    held(scene, "1", ttl_s, "stream_entry_id", "99999999999999-0")
    for rule in ("keep", "newer"):
        scene.add("id", "1")
        scene.abandon()
        report = await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=rule, STORE_TTL_SEC=setting))
        assert report.kept + report.superseded == 1
        assert left(ttl(scene, "1"))


async def test_a_key_of_another_type_keeps_its_expiry(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.raw.execute_command("SET", scene.prefix + "1", "a string", "EX", 500)
    scene.add("id", "1")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_TTL_SEC=str(DAY_S)))
    assert (report.dead_lettered, lives_for(500)(ttl(scene, "1"))) == (1, True)


def test_an_expire_beside_the_write_would_touch_it(scene: Scene) -> None:
    """Control: the two in one pipeline, as gather without a script would send them."""
    scene.raw.execute_command("SET", scene.prefix + "1", "a string", "EX", 500)
    pipeline = scene.raw.pipeline(transaction=False)
    pipeline.execute_command("HSET", scene.prefix + "1", "id", "1")
    pipeline.execute_command("EXPIRE", scene.prefix + "1", DAY_S)
    pipeline.execute(raise_on_error=False)
    assert not lives_for(500)(ttl(scene, "1"))


async def test_a_ttl_takes_no_round_trip_more(scene: Scene, sweep: Sweeper, mode: str) -> None:
    trips = []
    for setting in ("", str(DAY_S), "", str(DAY_S)):  # the first two may have scripts to load
        scene.add_tweets(4)
        scene.abandon()
        janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, STORE_TTL_SEC=setting, INDEX_SCHEMA="off"))
        seen = wire(janitor)
        await janitor.tick()
        assert scene.pending() == 0
        trips.append(seen.round_trips)
    assert trips[2] == trips[3]


@pytest.mark.parametrize("version", ["6.2", "7", "8"])
async def test_the_same_on_every_redis(version: str, sweep: Sweeper) -> None:
    with RedisServer(search=False, executable=EXECUTABLES[version]()) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, INDEX_SCHEMA="off")
        held(scene, "old", 500)
        for setting, tweet_id, expected in (("60", "old", lives_for(60)), ("0", "old", lambda left: left == -1)):
            scene.add("id", tweet_id)
            scene.abandon()
            report = await sweep(scene.settings(STORE_TTL_SEC=setting))
            assert (report.processed, expected(ttl(scene, tweet_id))) == (1, True)
        client.close()


@pytest.mark.parametrize(("setting", "right"), [("60", "expire"), ("0", "persist")])
@pytest.mark.parametrize("version", ["6.2", "7"])
async def test_a_missing_right_is_the_users_and_never_the_entrys_fault(
    version: str, sweep: Sweeper, setting: str, right: str
) -> None:
    """Redis 6.2 tells a script in other words, and only after the hash was written."""
    with RedisServer(search=False, executable=EXECUTABLES[version]()) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, INDEX_SCHEMA="off", STORE_TTL_SEC=setting, MAX_ATTEMPTS="1")
        client.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", "~*", "+@all", f"-{right}")
        scene.add("id", "1")
        scene.abandon()
        (report,) = await sweep.janitor(scene.settings(REDIS_USERNAME="u", REDIS_PASSWORD="pw")).tick()
        assert f"+{right}" in str(report.error)
        assert (scene.pending(), scene.dead_letters()) == (1, [])
        assert list(report.reasons) == ["failed: refused by the server (NOPERM)"]
        client.close()


@pytest.mark.parametrize("rule", ["overwrite", "newer", "keep"])
def test_a_consumer_says_the_ttl_behind_the_rule(scene: Scene, rule: str) -> None:
    def run(words: str, entry_id: str) -> bytes:
        script = store_script().text
        reply: bytes = scene.raw.execute_command("EVAL", script, 1, scene.prefix + "1", words, entry_id, "id", "1")
        return reply

    assert run(f"{rule} ttl=500", "5-1") == b"stored"
    assert lives_for(500)(ttl(scene, "1"))
    second = run(f"{rule} ttl=0", "5-0")
    expected = {"overwrite": (b"stored", False), "newer": (b"superseded", True), "keep": (b"kept", True)}[rule]
    assert (second, lives_for(500)(ttl(scene, "1"))) == expected


@pytest.mark.parametrize(("setting", "right"), [("60", "expire"), ("0", "persist")])
async def test_without_the_right_nothing_is_written_and_the_right_is_named(
    scene: Scene, sweep: Sweeper, mode: str, setting: str, right: str
) -> None:
    name = f"{scene.stream}-nottl"
    scene.raw.execute_command("ACL", "SETUSER", name, "reset", "on", ">pw", "~*", "+@all", f"-{right}")
    scene.add("id", "1")
    scene.abandon()
    try:
        changes = {"SETTLE_MODE": "auto" if mode == "script" else mode, "STORE_TTL_SEC": setting, "INDEX_SCHEMA": "off"}
        (report,) = await sweep.janitor(scene.settings(**changes, REDIS_USERNAME=name, REDIS_PASSWORD="pw")).tick()
    finally:
        scene.raw.execute_command("ACL", "DELUSER", name)
    assert f"+{right}" in str(report.error)
    assert (scene.pending(), scene.hash("1")) == (1, {})


def test_redis_says_no_to_a_ttl_of_no_number(scene: Scene) -> None:
    """The word behind the rule is read strictly: a slip never stores without the expiry that was meant."""
    for words in ("overwrite ttl=", "overwrite ttl=1h", "keep  ttl=5", "overwrite ttl=-1"):
        with pytest.raises(redis.ResponseError, match="overwrite, newer or keep"):
            scene.raw.execute_command("EVAL", store_script().text, 1, scene.prefix + "1", words, "5-1", "id", "1")
    assert scene.hash("1") == {}
