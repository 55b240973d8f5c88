"""STREAMS: several streams in one tick."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest
import redis

from demo.redis import RedisServer
from monitor.janitor import raise_for
from monitor.scripts import settle_script
from shared.errors import SettingsError, TickFailed
from shared.redis_client import Argument, Reply, ServerLink
from shared.settings import ITEM_KEYS, Settings
from tests.conftest import Scene, Sweeper, new_scene

FLAT = {
    "REDIS_HOST": "127.0.0.1:6379",
    "REDIS_TLS": "false",
    "STREAM_CONSUMER_GROUP_NAME": "group",
    "MONITORING_CONSUMER_NAME": "janitor",
    "MIN_IDLE_TIME_SEC": "10",
}


def settings_of(*items: object, **flat: str) -> Settings:
    return Settings.from_env({**FLAT, **flat, "STREAMS": json.dumps(items)})


def problems_of(streams: str, **flat: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**FLAT, **flat, "STREAMS": streams})
    return caught.value.problems


def test_flat_variables_are_the_defaults_of_every_item() -> None:
    tweets, email = settings_of(
        {"name": "tweets"},
        {
            "name": "email_events",
            "group": "mail",
            "prefix": "email:",
            "id_fields": ["id", "event"],
            "min_idle_sec": 60,
            "schema": "off",
        },
    ).streams
    assert (tweets.stream, tweets.group, tweets.min_idle_ms, tweets.hash_prefix) == (
        "tweets",
        "group",
        10_000,
        "tweet:",
    )
    assert (email.group, email.min_idle_ms, email.hash_prefix, email.id_fields) == (
        "mail",
        60_000,
        "email:",
        ("id", "event"),
    )
    assert email.index_schema is None
    assert email.consumer == "janitor"


def test_every_key_of_an_item_stands_for_a_flat_variable() -> None:
    values = {
        "name": "s", "group": "g", "consumer": "c", "min_idle_sec": 7, "prefix": "p:", "id_fields": "a,b", "index": "i",
        "action": "store",
        "max_deliveries": 7, "retry_backoff": 1.5, "retry_backoff_max_sec": 60, "dead_letter_brake": False,
        "schema": "$.a AS a TEXT", "settle_mode": "gather", "on_conflict": "keep", "dead_letter_stream": "dl", "max_attempts": 3,
        "reap_consumers_after_sec": 9, "reap_keep": ["x*", "y"], "ack_replicas": 2, "keep_trace_fields": True, "rate_limit": 50,
        "handler": "a:b", "handler_path": "/", "handler_timeout_sec": 3, "handler_batch": 5, "handler_url": "https://h/",
        "handler_secret": "secret", "sql_table": "t", "sql_columns": "a=b",
        "recovered_channel": "news", "index_create": "never", "store_ttl_sec": 60, "store_as": "json",
        "payload_field": "data",
        "requeue_to": "", "max_requeues": 5, "requeue_with_other_groups": False,
        "retain_sec": 60, "retain_ignore_groups": "tail-*",
        "dead_letter_retain_sec": 90,
    }  # fmt: skip
    assert set(values) == set(ITEM_KEYS)
    (stream,) = settings_of(values).streams
    assert (stream.stream, stream.group, stream.consumer, stream.min_idle_ms) == ("s", "g", "c", 7000)
    assert (stream.hash_prefix, stream.id_fields, stream.index_name) == ("p:", ("a", "b"), "i")
    assert (stream.index_schema, stream.settle_mode, stream.on_conflict) == (
        ("$.a", "AS", "a", "TEXT"),
        "gather",
        "keep",
    )
    assert (stream.dead_letter_stream, stream.max_attempts, stream.reap_after_ms) == ("dl", 3, 9000)
    assert (stream.reap_keep, stream.ack_replicas, stream.keep_trace_fields) == (("x*", "y"), 2, True)
    assert (stream.rate_limit, stream.recovered_channel, stream.index_create) == (50, "news", "never")
    assert (stream.handler, stream.handler_path, stream.handler_timeout_ms, stream.handler_batch) == (
        "a:b",
        "/",
        3000,
        5,
    )
    assert (stream.handler_url, stream.handler_secret) == ("https://h/", "secret")
    assert (stream.sql_table, stream.sql_columns) == ("t", "a=b")
    assert (stream.max_deliveries, stream.retry_backoff, stream.retry_backoff_max_ms) == (7, 1.5, 60_000)
    assert stream.dead_letter_brake is False
    assert (stream.store_ttl_ms, stream.store_as, stream.payload_field) == (60_000, "json", "data")
    retention = (stream.retain_ms, stream.retain_ignore_groups, stream.dead_letter_retain_ms)
    assert retention == (60_000, ("tail-*",), 90_000)


def test_two_items_of_one_stream_have_one_retention() -> None:
    problems = problems_of(
        json.dumps([{"name": "a", "retain_sec": 60}, {"name": "a", "group": "g2", "retain_sec": 61}])
    )
    assert problems == (
        "STREAMS: stream 'a' is there with different retain_sec or retain_ignore_groups: it can have only one",
    )
    both = settings_of({"name": "a", "retain_sec": 60}, {"name": "a", "group": "g2", "retain_sec": 60}).streams
    assert [one.own_groups for one in both] == [("group", "g2")] * 2


def test_two_items_of_one_dead_letter_stream_have_one_retention_there() -> None:
    items = [
        {"name": name, "dead_letter_stream": "dead", "dead_letter_retain_sec": retain}
        for name, retain in (("a", 1), ("b", "off"))
    ]
    (problem,) = problems_of(json.dumps(items))
    assert problem.startswith("STREAMS: dead-letter stream 'dead' is there with different dead_letter_retain_sec")


def test_partitions_stand_for_streams_numbered_from_0() -> None:
    streams = settings_of({"name": "tweets:{%d}", "partitions": 3}).streams
    assert [stream.stream for stream in streams] == ["tweets:{0}", "tweets:{1}", "tweets:{2}"]


def test_what_a_partition_has_beside_its_name_is_numbered_too() -> None:
    item = {"name": "t:{%d}", "partitions": 2, "prefix": "{%d}t:", "index": "i-{%d}", "dead_letter_stream": "{%d}dead"}
    streams = settings_of(item).streams
    assert [(one.hash_prefix, one.index_name, one.dead_letter_stream) for one in streams] == [
        ("{0}t:", "i-{0}", "{0}dead"), ("{1}t:", "i-{1}", "{1}dead"),
    ]  # fmt: skip
    assert settings_of({"name": "t", "prefix": "100%d:"}).streams[0].hash_prefix == "100%d:"


def test_a_limit_that_no_key_can_hold_in_a_cluster_is_refused() -> None:
    item = json.dumps([{"name": "a}b", "rate_limit": 5}])
    (problem,) = problems_of(item, REDIS_CLUSTER="true")
    assert problem.startswith("STREAMS[0].rate_limit: in a cluster")
    assert settings_of({"name": "a}b", "rate_limit": 5}).streams[0].rate_limit == 5
    assert settings_of({"name": "a}b{c}", "rate_limit": 5}, REDIS_CLUSTER="true").streams[0].rate_limit == 5


def test_a_flat_dead_letter_stream_never_merges_two_streams() -> None:
    streams = settings_of({"name": "a"}, {"name": "b%d", "partitions": 2}, DEAD_LETTER_STREAM="dead").streams
    assert [stream.dead_letter_stream for stream in streams] == ["dead:a", "dead:b0", "dead:b1"]
    assert settings_of({"name": "a"}, DEAD_LETTER_STREAM="off").streams[0].dead_letter_stream is None


def test_bad_items_are_reported_all_at_once_by_index_and_field() -> None:
    items = [
        {"group": "x", "min_idle_sec": "soon", "colour": 1},
        {"name": "b", "partitions": 4},
        {"name": "c", "on_conflict": "maybe"},
    ]
    text = "; ".join(problems_of(json.dumps(items), REDIS_TLS="perhaps"))
    for expected in (
        "STREAMS[0].name is missing", "STREAMS[0].min_idle_sec: expected", "STREAMS[0].colour: not a key",
        "STREAMS[1].partitions: expected", "STREAMS[2].on_conflict: expected", "REDIS_TLS: expected",
    ):  # fmt: skip
        assert expected in text


@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        ("[", "STREAMS: not JSON"),
        ("{}", "STREAMS: expected a JSON array"),
        ("[]", "STREAMS: expected a JSON array"),
        ("[1]", "STREAMS: expected a JSON array"),
        ('[{"name": "a"}, {"name": "a"}]', "STREAMS: stream 'a' with group 'group' is there twice"),
    ],
)
def test_what_is_no_list_of_streams_is_refused(streams: str, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems_of(streams))


def test_streams_beside_stream_name_is_refused() -> None:
    assert any("STREAM_NAME too" in problem for problem in problems_of('[{"name": "a"}]', STREAM_NAME="b"))


@pytest.fixture
def scenes(raw: redis.Redis, server: RedisServer) -> Iterator[list[Scene]]:
    scenes = [new_scene(raw, server.environment, INDEX_SCHEMA="off") for _ in range(3)]
    yield scenes
    for scene in scenes:
        for key in sorted(scene.keys()):
            raw.execute_command("DEL", key)


def together(scenes: list[Scene], **changes: str) -> Settings:
    items = [{"name": scene.stream, "prefix": scene.prefix} for scene in scenes]
    environment = {name: value for name, value in scenes[0].environment.items() if name != "STREAM_NAME"}
    return Settings.from_env({**environment, "STREAMS": json.dumps(items), **changes})


async def test_one_tick_sweeps_every_stream(scenes: list[Scene], sweep: Sweeper, mode: str) -> None:
    for number, scene in enumerate(scenes):
        scene.add_tweets(10 * number + 5)
        scene.abandon()
    reports = await sweep.janitor(together(scenes, SETTLE_MODE=mode)).tick()
    assert [(report.stream, report.processed) for report in reports] == [
        (scene.stream, 10 * number + 5) for number, scene in enumerate(scenes)
    ]
    assert all(scene.pending() == 0 for scene in scenes)


async def test_a_stream_that_fails_is_reported_and_the_others_go_on(
    scenes: list[Scene], sweep: Sweeper, mode: str
) -> None:
    for scene in scenes:
        scene.add_tweets(5)
        scene.abandon()
    broken = scenes[1]
    broken.raw.execute_command("XGROUP", "DESTROY", broken.stream, broken.group)
    reports = await sweep.janitor(together(scenes, SETTLE_MODE=mode)).tick()
    assert [report.processed for report in reports] == [5, 0, 5]
    with pytest.raises(TickFailed, match=f"{broken.stream}/{broken.group}: there is no consumer group") as failed:
        raise_for(reports)
    assert scenes[0].stream not in str(failed.value)


async def test_a_long_list_never_starves_a_short_one(scenes: list[Scene], sweep: Sweeper, mode: str) -> None:
    long, short, _ = scenes
    long.add_tweets(20_000)
    short.add_tweets(10)
    for scene in (long, short):
        scene.abandon()
    settings = together([long, short], SETTLE_MODE=mode)
    report_of_long, report_of_short = await sweep.janitor(settings).tick()
    assert (report_of_short.processed, report_of_short.complete) == (10, True)
    assert report_of_short.duration_s < report_of_long.duration_s


class UnderWay:
    """Counts the batches that wait for the server, and holds each of them back until three do, or for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        self.now = self.most = 0
        self._head = ("EVALSHA", settle_script().sha1) if mode == "script" else ("XRANGE",)
        self._are_three = asyncio.Event()
        self._call = ServerLink.call
        monkeypatch.setattr(ServerLink, "call", lambda link, *command: self._counted(link, *command))

    async def _counted(self, link: ServerLink, *command: Argument) -> Reply:
        if command[: len(self._head)] != self._head:
            return await self._call(link, *command)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now >= 3:
            self._are_three.set()
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._are_three.wait(), 0.1)
            return await self._call(link, *command)
        finally:
            self.now -= 1


async def tick_of_three(scenes: list[Scene], sweep: Sweeper, mode: str) -> None:
    for scene in scenes:
        scene.add_tweets(50)
        scene.abandon()
    reports = await sweep.janitor(together(scenes, SETTLE_MODE=mode, CONCURRENCY="2")).tick()
    assert [report.processed for report in reports] == [50] * 3


async def test_however_many_streams_a_server_has_no_more_batches_at_once(
    scenes: list[Scene], sweep: Sweeper, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = UnderWay(monkeypatch, mode)
    await tick_of_three(scenes, sweep, mode)
    assert under_way.most == 2


async def test_without_turns_every_stream_has_its_batches_under_way(
    scenes: list[Scene], sweep: Sweeper, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the same count where nobody waits for a turn."""
    monkeypatch.setattr(ServerLink, "turn_at", lambda *_: contextlib.nullcontext())
    under_way = UnderWay(monkeypatch, mode)
    await tick_of_three(scenes, sweep, mode)
    assert under_way.most > 2
