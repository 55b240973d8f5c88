"""The demo: its tweets, its screen, its timer host, and one short run of the whole."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from rich.console import Console

from demo.bursts import bursts
from demo.check import check_run
from demo.examples import TWEETS
from demo.examples.tweets import QUERIES
from demo.plan import BadPlan, make_plan
from demo.printable import padded, printable, shortened
from demo.processor import FlakyProcessor
from demo.queries import Answer, Query
from demo.redis import RedisServer, _free_port
from demo.scene import Scene, Tick
from demo.screen import PlainFace, picture
from demo.timer_host import ReportCollector
from demo.tweets import NotTweets, Tweet, made_up, read_tweets
from shared.schedule import fires

pytestmark = pytest.mark.more

ROOT = Path(__file__).resolve().parent.parent
STREAM, GROUP = TWEETS.stream.stream, TWEETS.stream.group
PRODUCTION = {"REDIS_HOST": "production.invalid:6380", "REDIS_PASSWORD": "secret", "STREAM_NAME": "theirs"}


# --- a whole run ------------------------------------------------------------------------------------------------


def start_demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env={**os.environ, **PRODUCTION},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def found_by_query(output: str) -> dict[str, int]:
    """How many documents each of the queries found, as printed."""
    pairs = re.findall(r"FT\.SEARCH tweets-index (.*?) LIMIT.*\n +([\d,]+) found", output)
    return {query.strip('"'): int(count.replace(",", "")) for query, count in pairs}


def test_a_short_run_through_a_pipe_ends_with_nothing_missing() -> None:
    with start_demo("--seconds", "12", "--schedule", "*/2 * * * * *") as demo:
        output, errors = demo.communicate(timeout=100)
    assert demo.returncode == 0, output + errors
    assert "✗" not in output
    produced, documents = re.findall(r"✓ ([\d,]+) tweets produced = ([\d,]+) documents in the index", output)[0]
    assert produced == documents
    assert "✓ pending = 0" in output
    assert "processor-2 was killed (SIGKILL)" in output
    assert "\x1b" not in output
    found = found_by_query(output)
    assert tuple(found) == QUERIES
    assert 0 < found["@user:jo* @location:India"] < found["@location:India"]
    assert found["@location:India"] < found["@user:jo* | @location:India"]
    assert 0 < found["hello"] < found["hello|world"]
    assert 0 < found["@hashtags:{cov*}"] < found["@hashtags:{cov*|Med*}"]


def test_a_short_run_on_a_cluster_that_loses_a_master_ends_with_nothing_missing() -> None:
    with start_demo("--cluster", "--short") as demo:
        output, errors = demo.communicate(timeout=120)
    assert demo.returncode == 0, output + errors
    assert "✗" not in output
    killed = re.findall(r"(\S+), the cluster's master with the stream, was killed \(SIGKILL\)", output)
    successor = re.findall(r"(\S+), its replica, took its place", output)
    assert f"{killed[0]} is back and follows {successor[0]}" in output
    produced, documents = re.findall(r"✓ ([\d,]+) tweets produced = ([\d,]+) documents in the index", output)[0]
    assert produced == documents
    assert "✓ pending = 0" in output
    assert len(re.findall(r"FT\.SEARCH tweets-index\{\d+\} .* NOCONTENT .*\n  and tweets-index\{", output)) == 7


def test_a_short_run_with_retention_ends_with_the_stream_trimmed_and_nothing_missing() -> None:
    with start_demo("--short", "--retain") as demo:
        output, errors = demo.communicate(timeout=120)
    assert demo.returncode == 0, output + errors
    assert "✗" not in output
    ((produced, documents),) = re.findall(r"✓ ([\d,]+) tweets produced = ([\d,]+) documents in the index", output)
    (trimmed,) = re.findall(r"✓ ([\d,]+) entries trimmed once both groups had finished with them, 1 left", output)
    assert produced == documents
    assert int(trimmed.replace(",", "")) == int(produced.replace(",", "")) - 1


@pytest.mark.parametrize("arguments", [("--cluster",), ("--example", "trades")])
def test_retention_is_for_the_tweets_on_one_server(arguments: tuple[str, ...]) -> None:
    with start_demo("--retain", *arguments) as demo:
        _, errors = demo.communicate(timeout=60)
    assert (demo.returncode, "--retain is for the tweets on one server" in errors) == (1, True)


def test_an_interrupted_run_stops_its_server_and_says_so() -> None:
    port = _free_port()
    with start_demo("--seconds", "60", "--port", str(port)) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "interrupted" in errors
    with RedisServer(search=False, port=port):
        pass  # the port is free again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schedule", "every now and then"), "not a schedule"),
        (("--tweets", "no-such-file.json"), "no-such-file.json"),
        (("--lang", "tlh"), "no made-up tweets in the language"),
        (("--cluster", "--example", "email"), "--cluster is for the tweets"),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_it_starts(arguments: tuple[str, ...], message: str) -> None:
    with start_demo(*arguments) as demo:
        output, errors = demo.communicate(timeout=30)
    assert demo.returncode != 0
    assert message in errors
    assert "Traceback" not in errors
    assert output == ""


# --- the check at the end is no formality -----------------------------------------------------------------------


@pytest.fixture
async def ended_run(tmp_path: Path) -> Any:
    """A server as a good run leaves it, with its scene; each test then breaks one thing."""
    tweets = list(itertools.islice(made_up(7), 30))
    with RedisServer() as server:
        async with Redis.from_url(server.url, protocol=2) as client:
            schema = ["SCHEMA", "id", "TEXT", "text", "TEXT"]
            await client.execute_command("FT.CREATE", "tweets-index", "ON", "HASH", "PREFIX", 1, "tweet:", *schema)
            await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
            for tweet in tweets:
                await client.xadd(STREAM, dict(tweet.fields()))
                await client.hset(f"tweet:{tweet.id}", mapping=dict(tweet.fields()))
            scene = Scene(TWEETS, "here", 1.0, produced=len(tweets))
            scene.ticks.append(Tick(1, 0.0, 0.1, None, ({"processed": 3, "line": "a report"},), ()))
            yield client, scene, tweets


async def broken_checks(client: Redis, scene: Scene) -> list[str]:
    return [check.text for check in await check_run(client, scene) if not check.holds]


async def test_check_holds_after_a_good_run(ended_run: Any) -> None:
    client, scene, _ = ended_run
    assert await broken_checks(client, scene) == []


async def test_check_finds_a_missing_document(ended_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.check.INDEXING_TIMEOUT_S", 0.0)
    client, scene, tweets = ended_run
    await client.delete(f"tweet:{tweets[0].id}")
    assert await broken_checks(client, scene) == [
        "30 tweets produced ≠ 29 documents in the index",
        "29 of 30 hashes hold, byte for byte, what their entries held",
    ]


async def test_check_finds_a_changed_hash(ended_run: Any) -> None:
    client, scene, tweets = ended_run
    await client.hset(f"tweet:{tweets[0].id}", "text", "something else")
    assert await broken_checks(client, scene) == ["29 of 30 hashes hold, byte for byte, what their entries held"]


async def test_check_finds_a_pending_entry(ended_run: Any) -> None:
    client, scene, _ = ended_run
    await client.xreadgroup(GROUP, "somebody", {STREAM: ">"}, count=1)
    assert await broken_checks(client, scene) == ["pending = 1"]


async def test_check_finds_a_failed_tick(ended_run: Any) -> None:
    client, scene, _ = ended_run
    scene.ticks.append(Tick(2, 0.0, 0.1, "RedisUnavailable: gone", (), ()))
    assert await broken_checks(client, scene) == ["2 ticks of the timer, 1 failed; recovered: 3"]


async def test_check_excuses_a_failed_tick_only_while_a_master_was_away(ended_run: Any) -> None:
    client, scene, _ = ended_run
    scene.outage = (100.0, 104.0)
    for due, took_s in ((98.0, 2.1), (101.0, 1.0), (103.9, 2.0)):
        scene.ticks.append(Tick(2, due, took_s, "RedisUnavailable: gone", (), ()))
    assert await broken_checks(client, scene) == []
    for due, took_s in ((98.0, 1.9), (104.1, 1.0)):
        scene.ticks.append(Tick(3, due, took_s, "RedisUnavailable: gone", (), ()))
    assert await broken_checks(client, scene) == [
        "6 ticks of the timer, 2 failed and 3 while a master was away; recovered: 3"
    ]


# --- tweets -----------------------------------------------------------------------------------------------------


def status(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "id_str": str(number),
        "text": f"tweet {number}",
        "lang": "en",
        "user": {"screen_name": "somebody", "location": "Pune, India"},
        "entities": {"hashtags": [{"text": "covid19"}, {"text": "おはよう"}]},
        **changes,
    }


def read(tmp_path: Path, *statuses: Any, lang: str | None = None) -> list[Tweet]:
    file = tmp_path / "tweets.json"
    file.write_text(json.dumps(statuses), encoding="utf-8")
    return list(read_tweets(file, lang))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([status(1), status(2)]),
        json.dumps([status(1), status(2)], indent=2),
        json.dumps({"statuses": [status(1), status(2)], "search_metadata": {}}),
        json.dumps({"statuses": [status(1), status(2)]}, indent=2),
        f"{json.dumps(status(1))}\n\n{json.dumps(status(2))}\n",
        f"\ufeff{json.dumps(status(1))}\r\n{json.dumps(status(2))}",
    ],
    ids=["array", "indented array", "search", "indented search", "a line each", "a line each, with BOM and CRLF"],
)
def test_all_three_shapes_of_a_file_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "tweets.json").write_text(text, encoding="utf-8", newline="")
    assert list(read_tweets(tmp_path / "tweets.json")) == [
        Tweet("1", "somebody", "tweet 1", "Pune, India", "covid19,おはよう", "en"),
        Tweet("2", "somebody", "tweet 2", "Pune, India", "covid19,おはよう", "en"),
    ]


def test_an_entry_holds_the_five_fields_of_a_tweet(tmp_path: Path) -> None:
    (tweet,) = read(tmp_path, status(1))
    assert tweet.fields() == {
        "id": "1",
        "user": "somebody",
        "text": "tweet 1",
        "location": "Pune, India",
        "hashtags": "covid19,おはよう",
    }


def test_sensitive_tweets_are_left_out(tmp_path: Path) -> None:
    statuses = [status(1, possibly_sensitive=True), status(2, possibly_sensitive=False), status(3)]
    assert [tweet.id for tweet in read(tmp_path, *statuses)] == ["2", "3"]


def test_one_language_can_be_kept(tmp_path: Path) -> None:
    by_metadata = status(3, lang=None, metadata={"iso_language_code": "ja"})
    statuses = [status(1), status(2, lang="ja"), by_metadata]
    assert [tweet.id for tweet in read(tmp_path, *statuses, lang="ja")] == ["2", "3"]


def test_a_tweet_that_is_in_the_file_twice_is_read_once(tmp_path: Path) -> None:
    assert [tweet.id for tweet in read(tmp_path, status(1), status(2), status(1, text="again"))] == ["1", "2"]


def test_the_whole_text_is_taken_where_there_is_one(tmp_path: Path) -> None:
    extended = {"full_text": "the whole of it", "entities": {"hashtags": [{"text": "late"}]}}
    first, second = read(tmp_path, status(1, full_text="all of it"), status(2, extended_tweet=extended))
    assert (first.text, second.text, second.hashtags) == ("all of it", "the whole of it", "late")


def test_what_a_stream_carries_beside_tweets_is_passed_over(tmp_path: Path) -> None:
    others = [{"delete": {"status": {"id": 9}}}, {"limit": {"track": 5}}, "text", None, 7, {"id": 3, "text": None}]
    assert [tweet.id for tweet in read(tmp_path, *others, status(1))] == ["1"]


@pytest.mark.parametrize(
    "changes",
    [{"user": None}, {"user": {}}, {"entities": None}, {"entities": {"hashtags": [None, {"text": None}]}}],
)
def test_missing_parts_become_empty_fields(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tweet,) = read(tmp_path, status(1, **changes))
    assert "" in (tweet.user, tweet.hashtags)
    assert None not in tweet.fields().values()


def test_half_a_surrogate_pair_does_not_stop_the_producer(tmp_path: Path) -> None:
    (tweet,) = read(tmp_path, status(1, text="broken \ud83d emoji"))
    assert tweet.text.encode("utf-8") == b"broken ? emoji"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{json.dumps(status(1))}\nnot json\n", "line 2"),
        ("not json at all", "not JSON"),
        ('"a string"', "expected an array"),
        ("", "not JSON"),
    ],
)
def test_a_file_that_holds_no_tweets_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tweets.json").write_text(text, encoding="utf-8")
    with pytest.raises(NotTweets, match=message):
        list(read_tweets(tmp_path / "tweets.json"))


def test_the_same_seed_makes_up_the_same_tweets() -> None:
    first, again, other = (list(itertools.islice(made_up(seed), 500)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_made_up_tweets_all_have_different_ids() -> None:
    tweets = list(itertools.islice(made_up(3), 20_000))
    assert len({tweet.id for tweet in tweets}) == len(tweets)


@pytest.mark.parametrize("seed", range(5))
def test_a_few_hundred_made_up_tweets_hold_what_the_queries_look_for(seed: int) -> None:
    tweets = list(itertools.islice(made_up(seed), 300))
    tags = {tag.lower() for tweet in tweets for tag in tweet.hashtags.split(",")}
    assert any("hello" in tweet.text.lower() for tweet in tweets)
    assert any("world" in tweet.text.lower() for tweet in tweets)
    assert any("India" in tweet.location and tweet.user.startswith("jo") for tweet in tweets)
    assert any(tag.startswith("cov") for tag in tags)
    assert any(tag.startswith("med") for tag in tags)
    assert len({tweet.lang for tweet in tweets}) > 8


def test_made_up_tweets_can_be_of_one_language() -> None:
    assert {tweet.lang for tweet in itertools.islice(made_up(1, "hi"), 50)} == {"hi"}


# --- producing and processing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.5, 40.0, 3000.0])
def test_bursts_keep_the_rate_on_average_and_bring_every_tweet_once(rate: float) -> None:
    tweets = list(itertools.islice(made_up(1), 2000))
    produced = list(bursts(iter(tweets), rate, random.Random(1)))
    assert [tweet for _, burst in produced for tweet in burst] == tweets
    if rate == 40.0:
        assert sum(pause_s for pause_s, _ in produced) == pytest.approx(2000 / rate, rel=0.2)


def test_a_processor_always_fails_on_its_first_entry_and_then_on_about_a_fifth() -> None:
    class Client:
        def hset(self, *arguments: Any, **more: Any) -> None: ...
        def xack(self, *arguments: Any) -> None: ...
        def register_script(self, text: str) -> None: ...

    processor = FlakyProcessor(Client(), TWEETS, "p", 0.0, random.Random(1))  # type: ignore[arg-type]
    processor._process(b"1-0", {b"id": b"1"})
    assert (processor.stored, processor.failed) == (0, 1)
    for _ in range(2000):
        processor._process(b"1-0", {b"id": b"1"})
    assert processor.failed == pytest.approx(400, rel=0.2)


def test_a_plan_leaves_time_for_the_tick_that_comes_last() -> None:
    plan = make_plan(TWEETS, None, None, 1, "*/20 * * * * *", None, 75.0)
    assert 40 <= plan.production_s <= 50
    assert plan.expected_s <= 75
    assert 5 <= plan.min_idle_s <= 10


def test_a_plan_gives_all_tweets_of_a_file_their_time(tmp_path: Path) -> None:
    file = tmp_path / "tweets.json"
    file.write_text(json.dumps([status(number) for number in range(1, 101)]))
    plan = make_plan(TWEETS, file, None, 1, "*/20 * * * * *", None, 75.0)
    assert plan.rate * plan.production_s == pytest.approx(100)
    assert plan.limit_s > 1e6


def test_a_plan_without_any_tweet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tweets.json"
    file.write_text(json.dumps([status(1)]))
    with pytest.raises(BadPlan, match="no tweets in the language 'ja'"):
        make_plan(TWEETS, file, "ja", 1, "*/20 * * * * *", None, 75.0)


# --- the timer host ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        ("*/20 * * * * *", [20, 40, 60]),
        ("5,7 * * * * *", [5, 7, 65]),
        ("* * * * *", [60, 120, 180]),
        ("00:00:30", [30, 60, 90]),
    ],
)
def test_schedules_are_read_as_the_platform_reads_them(schedule: str, seconds: list[int]) -> None:
    after = datetime(2024, 1, 1, tzinfo=timezone.utc)
    due = itertools.islice(fires(schedule, after), 3)
    assert [(moment - after).total_seconds() for moment in due] == seconds


def test_collector_keeps_reports_and_warnings_of_one_tick() -> None:
    collector, logger = ReportCollector(), __import__("logging").getLogger("monitor.of.a.test")
    logger.addHandler(collector)
    logger.setLevel("DEBUG")
    try:
        logger.debug("%s", "the report", extra={"report": {"processed": 3}})
        logger.warning("late")
        logger.info("chatter")
    finally:
        logger.removeHandler(collector)
    assert collector.taken() == {
        "reports": [{"processed": 3, "line": "the report"}],
        "remarks": ["WARNING: late"],
    }
    assert collector.taken() == {"reports": [], "remarks": []}


# --- the screen -------------------------------------------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold]\u202eevil\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain [bold]text[/]", "plain [bold]text[/]"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202eabc", "\\u202eabc"),
        (b"\xff\x00", "\\xff\\x00"),
        ("नमस्ते 👩\u200d🚀", "नमस्ते 👩\u200d🚀"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_printable_escapes_what_steers_a_terminal_and_nothing_else(value: str | bytes, shown: str) -> None:
    assert printable(value) == shown


def test_shortened_text_is_one_line_of_at_most_so_many_cells() -> None:
    assert shortened("two\nlines", 20) == "two lines"
    assert shortened("世界世界世界", 7) == "世界世…"
    assert padded("世界", 6) == "世界  "


def scene_of(name: str) -> Scene:
    scene = Scene(TWEETS, "127.0.0.1:1", 75.0, produced=10)
    scene.consumer(name).pending = 3
    scene.happened(name)
    scene.ticks.append(Tick(1, time.time(), 0.1, name, ({"line": name, "processed": 3},), (name,)))
    return scene


def test_live_picture_shows_hostile_text_as_text() -> None:
    output = io.StringIO()
    console = Console(file=output, width=110, height=40, color_system=None, force_terminal=True)
    console.print(picture(scene_of(HOSTILE), 40))
    assert "\x1b" not in output.getvalue()
    assert "\x07" not in output.getvalue()
    assert "[bold]" in output.getvalue()


def test_plain_lines_show_hostile_text_as_text() -> None:
    output = io.StringIO()
    PlainFace(scene_of(HOSTILE), Console(file=output, width=110)).finish()
    assert "\x1b" not in output.getvalue()
    assert output.getvalue().count("\n") == 4
    assert "[bold]" in output.getvalue()


@pytest.mark.parametrize("height", [24, 40, 60])
def test_live_picture_fits_the_terminal(height: int) -> None:
    scene = scene_of("janitor")
    for number in range(8):
        scene.consumer(f"processor-{number % 3}")
        scene.happened("something")
        scene.ticks.append(Tick(number, 0.0, 0.1, None, ({"line": "a report"},), ()))
    console = Console(file=io.StringIO(), width=110, height=height)
    assert len(console.render_lines(picture(scene, height))) <= height


@pytest.mark.parametrize(
    ("query", "typed"),
    [
        ("hello", "FT.SEARCH tweets-index hello LIMIT 0 3 DIALECT 2"),
        ("@hashtags:{cov*|Med*}", 'FT.SEARCH tweets-index "@hashtags:{cov*|Med*}" LIMIT 0 3 DIALECT 2'),
    ],
)
def test_queries_are_printed_as_one_types_them(query: str, typed: str) -> None:
    assert Answer(Query(query), "tweets-index", 0, ()).typed == typed
