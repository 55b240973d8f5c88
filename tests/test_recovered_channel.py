"""RECOVERED_CHANNEL: others are told of the hashes that were written, after the acknowledgement, and never at its cost."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import redis
from redis.exceptions import ConnectionError

from demo.redis import RedisServer
from monitor.recovered import message
from shared.redis_client import Command
from tests import acl, naive
from tests.conftest import Scene, Sweeper, wire
from tests.test_acl import SETTLING, Users

CHANNEL = "tweets:recovered"


@pytest.fixture
def users(raw: redis.Redis) -> Iterator[Users]:
    users = Users(raw)
    yield users
    users.delete()


class Listener:
    """Somebody who listens to every channel, or to CHANNEL as its shard has it."""

    def __init__(self, port: int, sharded: bool = False) -> None:
        self._client = redis.Redis(port=port)
        self._pubsub = self._client.pubsub()
        self._publish = "SPUBLISH" if sharded else "PUBLISH"
        if sharded:
            self._pubsub.ssubscribe(CHANNEL)
        else:
            self._pubsub.psubscribe("*")
        assert self._pubsub.get_message(timeout=10)["type"] in ("psubscribe", "ssubscribe")

    def heard(self) -> list[tuple[str, bytes]]:
        """Channel and text of all that was said by now."""
        self._client.execute_command(self._publish, CHANNEL, "that is all")
        said = []
        while True:
            one = self._pubsub.get_message(timeout=10)
            assert one is not None, "nothing came for too long"
            if one["data"] == b"that is all":
                return said
            said.append((one["channel"].decode(), one["data"]))

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture
def listener(server: RedisServer) -> Iterator[Listener]:
    listener = Listener(server.port)
    yield listener
    listener.close()


def keys_in(text: bytes) -> list[bytes]:
    return [
        base64.b64decode(key["base64"]) if isinstance(key, dict) else key.encode() for key in json.loads(text)["keys"]
    ]


def left_behind(scene: Scene, count: int) -> None:
    scene.add_tweets(count)
    scene.abandon()


async def test_each_stored_hash_is_told_of_once(scene: Scene, sweep: Sweeper, listener: Listener, mode: str) -> None:
    left_behind(scene, 700)
    await sweep(scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL))
    heard = listener.heard()
    told = [key for _, text in heard for key in keys_in(text)]
    assert sorted(told) == sorted(scene.hashes())
    assert len(told) == 700
    assert {channel for channel, _ in heard} == {CHANNEL}
    for _, text in heard:
        said = json.loads(text)
        assert (set(said), said["stream"], said["group"]) == ({"stream", "group", "keys"}, scene.stream, scene.group)
        assert 0 < len(said["keys"]) <= 512


async def test_only_stored_hashes_are_told_of(scene: Scene, sweep: Sweeper, listener: Listener, mode: str) -> None:
    scene.add("id", "new")
    scene.add("id", "held")
    scene.raw.execute_command("HSET", scene.prefix + "held", "id", "held")
    scene.add("user", "no id")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)
    report = await sweep(scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL, ON_CONFLICT="keep"))
    assert (report.processed, report.kept, report.dead_lettered, report.deleted) == (1, 1, 1, 1)
    assert [key for _, text in listener.heard() for key in keys_in(text)] == [scene.prefix.encode() + b"new"]


async def test_a_batch_that_stored_nothing_says_nothing(
    scene: Scene, sweep: Sweeper, listener: Listener, mode: str
) -> None:
    scene.add("user", "no id")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL))
    assert (report.dead_lettered, listener.heard()) == (1, [])


async def test_without_a_channel_nothing_is_said(scene: Scene, sweep: Sweeper, listener: Listener, mode: str) -> None:
    left_behind(scene, 20)
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    seen = wire(janitor)
    await janitor.tick()
    assert len(scene.hashes()) == 20
    assert (listener.heard(), seen.sent("PUBLISH")) == ([], [])


# --- after the acknowledgement ----------------------------------------------------------------------------------------------


def told_too_early(scene: Scene, ran: Sequence[Sequence[str]]) -> list[str]:
    """Keys that were told of before their entries were acknowledged, by what the server says it ran."""
    numbers = {
        row[0].decode(): row[1][1].decode() for row in scene.raw.execute_command("XRANGE", scene.stream, "-", "+")
    }
    acknowledged: set[str] = set()
    early = []
    for words in ran:
        if words[0] == "XACK":
            acknowledged |= {scene.prefix + numbers[word] for word in words[3:]}
        if words[0] == "PUBLISH":
            early += [key for key in json.loads(" ".join(words[2:]))["keys"] if key not in acknowledged]
    return early


class Ran:
    """What the server ran, as MONITOR tells it."""

    def __init__(self, server: RedisServer) -> None:
        self._client = redis.Redis(port=server.port, decode_responses=True)
        self._monitor = self._client.monitor()
        self._monitor.__enter__()

    def commands(self) -> list[list[str]]:
        self._client.execute_command("ECHO", "that is all")
        seen: list[list[str]] = []
        while not seen or seen[-1][0] != "ECHO":
            command = self._monitor.next_command()["command"]
            seen.append(command.replace('\\"', '"').split(" "))
        self._monitor.__exit__(None, None, None)
        self._client.close()
        return seen


async def test_nothing_is_told_of_before_it_is_acknowledged(
    own_server: RedisServer, own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    left_behind(own_scene, 300)
    ran = Ran(own_server)
    await sweep(own_scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL))
    commands = ran.commands()
    assert sum(words[0] == "PUBLISH" for words in commands) > 1
    assert told_too_early(own_scene, commands) == []


def test_telling_first_is_caught(own_server: RedisServer, own_scene: Scene) -> None:
    """Control: the same check of a naive janitor."""
    own_scene.add_tweets(3)
    ids = own_scene.abandon()
    ran = Ran(own_server)
    naive.tell_then_acknowledge(own_scene, ids, CHANNEL)
    assert len(told_too_early(own_scene, ran.commands())) == 3


# --- any key ----------------------------------------------------------------------------------------------------------------

ODD = [
    b"plain", "नमस्ते 🌍".encode(), b'"quoted" \\ / <', b"\x00\x01\x1f\x7f", b"%FF", b"\xff", b"\x80", b"\xc3", b"a\xe2\x82",
    b"\xc0\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\x9f\xbf\xee\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",
]  # fmt: skip


async def test_any_key_arrives_byte_for_byte(scene: Scene, sweep: Sweeper, listener: Listener, mode: str) -> None:
    for suffix in ODD:
        scene.add("id", suffix)
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL))
    texts = [text for _, text in listener.heard()]
    assert sorted(key for text in texts for key in keys_in(text)) == sorted(scene.prefix.encode() + one for one in ODD)
    assert [text.decode() for text in texts], "JSON is UTF-8"


def test_names_that_json_escapes_are_told_right(scene: Scene) -> None:
    settings = replace(scene.settings().streams[0], stream='a"b\\', group="नम")
    said = json.loads(message(settings, [b"k"]))
    assert said == {"stream": 'a"b\\', "group": "नम", "keys": ["k"]}


# --- never a reason to fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", acl.words(acl.RECOVERED))
async def test_a_message_that_is_refused_costs_nothing_and_is_said_once(
    scene: Scene,
    sweep: Sweeper,
    users: Users,
    listener: Listener,
    mode: str,
    right: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left_behind(scene, 700)
    login = users.login(scene, [SETTLING[mode], acl.RECOVERED], without=right)
    with caplog.at_level(logging.WARNING, "monitor"):
        report = await sweep(scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL, INDEX_SCHEMA="off", **login))
    assert (report.processed, report.complete, report.error, report.settle_mode) == (700, True, None, mode)
    assert (scene.pending(), listener.heard()) == (0, [])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "RECOVERED_CHANNEL was not told of" in warning
    assert "NOPERM" in warning


async def test_the_rights_of_its_line_are_enough(
    scene: Scene, sweep: Sweeper, users: Users, listener: Listener, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind(scene, 20)
    login = users.login(scene, [SETTLING[mode], acl.RECOVERED])
    with caplog.at_level(logging.WARNING, "monitor"):
        await sweep(scene.settings(SETTLE_MODE=mode, RECOVERED_CHANNEL=CHANNEL, INDEX_SCHEMA="off", **login))
    assert sum(len(keys_in(text)) for _, text in listener.heard()) == 20
    assert caplog.records == []


async def test_a_connection_lost_at_the_message_costs_nothing(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind(scene, 300)
    janitor = sweep.janitor(scene.settings(SETTLE_MODE="gather", RECOVERED_CHANNEL=CHANNEL))
    seen = wire(janitor)

    def cut(command: Command) -> None:
        if command[0] == "PUBLISH":
            raise ConnectionError("gone")

    seen.before = cut
    with caplog.at_level(logging.WARNING, "monitor"):
        (report,) = await janitor.tick()
    assert (report.processed, report.unknown, report.error, scene.pending()) == (300, 0, None, 0)
    assert len(caplog.records) == 1
