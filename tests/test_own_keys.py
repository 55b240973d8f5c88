"""Our own keys beside a stream: named by one rule, and out of reach of the ids of entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from monitor.rate import rate_key
from shared.errors import SettingsError
from shared.own_keys import KINDS, attempts_key, collisions, own_key, own_keys
from shared.settings import Settings
from tests.conftest import Scene, Sweeper

ROOT = Path(__file__).parent.parent
BASE = {
    "REDIS_HOST": "h",
    "STREAM_NAME": "s",
    "STREAM_CONSUMER_GROUP_NAME": "g",
    "MONITORING_CONSUMER_NAME": "c",
    "MIN_IDLE_TIME_SEC": "1",
}


def problems(environment: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environment)
    return caught.value.problems


def streams(*items: object, **flat: str) -> dict[str, str]:
    return {**BASE, **flat, "STREAM_NAME": "", "STREAMS": json.dumps(items)}


# --- their names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "key"),
    [
        ("tweets", "{tweets}:due:g"),
        ("tweets:{3}", "tweets:{3}:due:g"),
        ("{a}b{c}", "{a}b{c}:due:g"),
        ("a{b", "{a{b}:due:g"),
        ("a{}b", "{a{}b}:due:g"),
    ],
)
def test_an_own_key_keeps_the_streams_hash_tag_or_makes_one_of_its_name(stream: str, key: str) -> None:
    assert own_key(stream, "due", "g") == key


def test_the_rate_window_and_the_counts_of_attempts_have_the_keys_that_they_had() -> None:
    (stream,) = Settings.from_env(BASE).streams
    assert rate_key(stream) == own_key("s", "rate", "g") == "{s}:rate:g"
    assert attempts_key("s:dead") == "s:dead:attempts"


def test_own_keys_are_those_of_every_stream_used_or_not() -> None:
    settings = Settings.from_env(
        streams({"name": "a"}, {"name": "b{t}", "group": "x", "dead_letter_stream": "off"}, {"name": "ü"})
    )
    assert {b"rate"} == {kind.encode() for kind in KINDS}
    assert own_keys(settings) == {
        b"a", b"a:dead", b"a:dead:attempts", b"{a}:rate:g",
        b"b{t}", b"b{t}:rate:x",
        "ü".encode(), "ü:dead".encode(), "ü:dead:attempts".encode(), "{ü}:rate:g".encode(),
    }  # fmt: skip


# --- refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"STREAM_NAME": "tweet"}, "DEAD_LETTER_STREAM"),  # tweet:dead, and the default prefix
        ({"STREAM_NAME": "{t}:s", "HASH_PREFIX": "{t}:s:", "DEAD_LETTER_STREAM": "off", "RECOVERY_RATE_LIMIT": "5"},
         "RECOVERY_RATE_LIMIT"),
        ({"HASH_PREFIX": "{s}:", "RECOVERY_RATE_LIMIT": "5"}, "RECOVERY_RATE_LIMIT"),
        ({"HASH_PREFIX": "{s}:rate:g", "RECOVERY_RATE_LIMIT": "5"}, "RECOVERY_RATE_LIMIT"),
        ({"HASH_PREFIX": "s:dead"}, "DEAD_LETTER_STREAM"),
        ({"HASH_PREFIX": "s:dead:"}, "DEAD_LETTER_STREAM"),  # the counts of attempts only
        ({"HASH_PREFIX": "s:dead:attempts"}, "DEAD_LETTER_STREAM"),
        ({"DEAD_LETTER_STREAM": "tweet:letters"}, "DEAD_LETTER_STREAM"),
        ({"HASH_PREFIX": "s"}, "DEAD_LETTER_STREAM"),
    ],
)  # fmt: skip
def test_a_prefix_that_an_own_key_begins_with_is_refused_by_name(changes: dict[str, str], named: str) -> None:
    (problem,) = problems({**BASE, **changes})
    assert problem.startswith(f"HASH_PREFIX: a key that {named} makes the janitor use begins with it")
    assert problem.endswith(f"choose a prefix that no such key begins with, or change {named}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"STREAM_NAME": "tweet", "DEAD_LETTER_STREAM": "off"},
        {"STREAM_NAME": "tweet", "DEAD_LETTER_STREAM": "dead:tweet"},
        {"STREAM_NAME": "tweet:stream", "DEAD_LETTER_STREAM": "dead"},  # the producers' own names are theirs
        {"HASH_PREFIX": "{s}:"},  # no rate limit: nobody uses the key
        {"HASH_PREFIX": "{s}:rate:g:", "RECOVERY_RATE_LIMIT": "5"},
        {"HASH_PREFIX": "s:dead:attempts:"},
        {"HASH_PREFIX": "s:deae"},
        {"HASH_PREFIX": "S:"},
        {"STREAM_NAME": "s123", "HASH_PREFIX": "s123:tweet:", "DEAD_LETTER_STREAM": "s123:dead"},
    ],
)
def test_a_prefix_that_no_own_key_begins_with_is_taken(changes: dict[str, str]) -> None:
    settings = Settings.from_env({**BASE, **changes})
    assert not list(collisions(settings.streams))


def test_a_prefix_is_held_against_the_keys_of_every_stream() -> None:
    items = {"name": "a", "prefix": "x:"}, {"name": "x:b", "prefix": "y:"}
    (problem,) = problems(streams(*items))
    assert problem.startswith(
        "STREAMS[0].prefix: a key that STREAMS[1].dead_letter_stream makes the janitor use begins"
    )
    assert problem.endswith("or change STREAMS[1].dead_letter_stream")
    assert len(Settings.from_env(streams(items[0], {**items[1], "dead_letter_stream": "dead"})).streams) == 2


def test_partitions_tell_it_once() -> None:
    (problem,) = problems(streams({"name": "t:%d", "partitions": 128, "prefix": "t:"}))
    assert problem.startswith("STREAMS[0].prefix: ")
    assert len(Settings.from_env(streams({"name": "t:%d", "partitions": 128, "prefix": "t%d:"})).streams) == 128


def test_the_empty_prefix_would_be_refused_too() -> None:
    """It cannot be set today: a blank HASH_PREFIX has its default."""
    (stream,) = Settings.from_env({**BASE, "HASH_PREFIX": ""}).streams
    assert stream.hash_prefix == "tweet:"


@pytest.mark.parametrize("path", sorted([*ROOT.glob("examples/*.json"), ROOT / "local.settings.example.json"]))
def test_the_examples_and_their_hashes_stay_apart(path: Path) -> None:
    assert Settings.from_env(json.loads(path.read_text(encoding="utf-8"))["Values"]).streams


def test_it_is_told_beside_other_problems_but_not_of_a_stream_without_a_name() -> None:
    both = problems({**BASE, "HASH_PREFIX": "s:", "PAGE_SIZE": "many"})
    assert sorted(problem.partition(":")[0] for problem in both) == ["HASH_PREFIX", "PAGE_SIZE"]
    assert problems({**BASE, "STREAM_NAME": "", "HASH_PREFIX": "None"}) == ("STREAM_NAME is missing",)


# --- why --------------------------------------------------------------------------------------------------------------------


def test_without_the_refusal_a_hash_lies_where_the_dead_letters_belong(scene: Scene) -> None:
    """Control: what such settings lead to. ``own_keys`` has the key."""
    prefix, dead = f"{scene.stream}:", f"{scene.stream}:dead"
    environment = {**scene.environment, "HASH_PREFIX": prefix}
    assert problems(environment)[0].startswith("HASH_PREFIX: ")
    assert (prefix + "dead").encode() in own_keys(Settings.from_env(scene.environment))
    scene.raw.execute_command("HSET", prefix + "dead", "id", "dead")
    with pytest.raises(Exception, match="WRONGTYPE"):
        scene.raw.execute_command("XADD", dead, "*", "id", "x")
    scene.raw.execute_command("DEL", dead)


@pytest.mark.parametrize("mode", ["script", "gather"])
async def test_an_id_that_names_the_stream_itself_is_a_fault_and_no_write(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    """The stream's own name may begin with the prefix: nobody can rename either."""
    prefix = scene.stream[:2]
    rest = scene.stream[2:]
    scene.add("id", rest, "text", "hostile")
    scene.add("id", f"{rest}:fine")
    scene.abandon()
    settings = scene.settings(
        SETTLE_MODE=mode, HASH_PREFIX=prefix, INDEX_SCHEMA="off", DEAD_LETTER_STREAM=f"dead-{scene.stream}"
    )
    report = await sweep(settings)
    assert (report.dead_lettered, report.processed, report.error, scene.pending()) == (1, 1, None, 0)
    assert list(report.reasons) == ["dead_lettered: names one of the janitor's own keys"]
    assert scene.raw.execute_command("TYPE", scene.stream) == b"stream"


@pytest.mark.parametrize("mode", ["script", "gather"])
async def test_a_key_that_only_another_janitor_uses_is_never_written_by_an_entry(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    prefix = f"{{{scene.stream}}}:"
    window = f"{prefix}rate:{scene.group}"
    scene.add("id", f"rate:{scene.group}")
    scene.abandon()
    changes = {"SETTLE_MODE": mode, "HASH_PREFIX": prefix, "INDEX_SCHEMA": "off", "DEAD_LETTER_STREAM": "off"}
    report = await sweep(scene.settings(**changes))
    assert (report.failed, scene.raw.execute_command("EXISTS", window)) == (1, 0)


async def test_without_the_guard_an_entry_writes_into_the_rate_window(scene: Scene, sweep: Sweeper) -> None:
    """Control: the same entry, its key composed by a client that asks nobody."""
    window = f"{{{scene.stream}}}:rate:{scene.group}"
    scene.raw.execute_command("HSET", window, "id", f"rate:{scene.group}")
    scene.add("id", 1)
    scene.abandon()
    report = await sweep(scene.settings(RECOVERY_RATE_LIMIT="5", SETTLE_MODE="script", INDEX_SCHEMA="off"))
    assert report.processed == 0
    assert report.error is not None
