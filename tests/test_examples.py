"""The examples: their settings files, a short run of each, and what their checks at the end find."""

from __future__ import annotations

import itertools
import json
import random
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from demo.example import FOLDER, Example, Faults, Item
from demo.examples import EMAIL, ENVELOPES, EXAMPLES, JOBS, TRADES, TWEETS, VISITS
from demo.examples.email import events
from demo.examples.envelopes import grants
from demo.examples.jobs import jobs
from demo.examples.trades import limit_held
from demo.examples.visits import NO_SESSION, REFUSED, visits
from demo.plan import BadPlan, make_plan
from demo.processor import FlakyProcessor
from demo.queries import Answer, Query
from demo.redis import RedisServer
from demo.scene import Scene, Tick
from demo.witness import Witness, parsed, watching
from monitor.cli.call import values_of
from monitor.janitor import Janitor
from shared.settings import DEFAULTS, REQUIRED, Settings
from tests.test_demo import start_demo

pytestmark = pytest.mark.more

OF_THE_PLATFORM = {"FUNCTIONS_WORKER_RUNTIME": "python", "AzureWebJobsStorage": "UseDevelopmentStorage=true"}


# --- the settings files -------------------------------------------------------------------------------------------------


def test_every_example_has_its_settings_file_and_every_file_its_example() -> None:
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_file()) == sorted(
        f"{name}.json" for name in EXAMPLES
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_settings_file_works_as_local_settings_and_on_the_command_line(name: str) -> None:
    path = FOLDER / f"{name}.json"
    assert json.loads(path.read_text())["IsEncrypted"] is False
    values = values_of(str(path))
    assert OF_THE_PLATFORM.items() <= values.items()
    assert set(values) - set(OF_THE_PLATFORM) <= set(DEFAULTS)
    assert {variable for variable, default in DEFAULTS.items() if default is REQUIRED} <= set(values)
    settings = Settings.from_env(values)
    assert (settings.redis.host, settings.redis.port, settings.redis.tls) == ("127.0.0.1", 6379, False)
    assert settings.streams == (EXAMPLES[name].stream,)


def test_examples_share_no_name_in_redis() -> None:
    streams = [example.stream for example in EXAMPLES.values()]
    names = [name for stream in streams for name in (stream.stream, stream.hash_prefix, stream.index_name)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_example_asks_and_shows_is_in_its_index(name: str) -> None:
    example = EXAMPLES[name]
    asked = {
        field
        for query in example.queries
        for word in (query.text, *query.steps)
        for field in re.findall(r"@(\w+)", word)
    }
    assert asked | {column.field for column in example.columns} <= set(example.stream.index_schema or ())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("email", {"lang": "en"}, "for tweets"),
        ("email", {"rate": 5.0}, "rhythm of its own"),
        ("trades", {"rate": 5.0}, "rhythm of its own"),
    ],
)
def test_options_that_do_not_fit_an_example_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    options = {"lang": None, "rate": None, **arguments}
    with pytest.raises(BadPlan, match=message):
        make_plan(EXAMPLES[name], None, options["lang"], 1, "*/20 * * * * *", options["rate"], 75.0)


def test_each_janitor_gets_the_files_settings_under_a_name_of_its_own() -> None:
    plan = make_plan(TRADES, None, None, 1, "*/20 * * * * *", None, 75.0)
    settings = [plan.app_settings(name) for name in TRADES.janitor_names]
    assert [one["MONITORING_CONSUMER_NAME"] for one in settings] == ["janitor-1", "janitor-2", "janitor-3"]
    assert {one["RECOVERY_RATE_LIMIT"] for one in settings} == {"50"}
    assert (len(ENVELOPES.janitor_names), TWEETS.janitor_names) == (4, ("janitor",))


# --- short runs ---------------------------------------------------------------------------------------------------------

CHECKS = {"tweets": 4, "email": 5, "trades": 5, "visits": 6, "envelopes": 6, "jobs": 5}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_short_run_ends_with_all_its_checks_holding(name: str) -> None:
    with start_demo("--example", name, "--short") as demo:
        try:
            output, errors = demo.communicate(timeout=110)
        except subprocess.TimeoutExpired:
            demo.terminate()
            output, errors = demo.communicate()
    assert demo.returncode == 0, output + errors
    assert "✗" not in output
    assert output.count("✓ ") == CHECKS[name]
    assert output.count("(SIGKILL)") == EXAMPLES[name].faults.kills
    found = re.findall(r"> (FT\..*)\n +([\d,]+) found", output)
    assert len(found) == len(EXAMPLES[name].queries)
    assert [typed for typed, count in found if count == "0"] == []


# --- a run in small, of which the tests break one thing -------------------------------------------------------------------


@dataclass
class SmallRun:
    """One consumer that fails as the example's do, then one tick of a real janitor; on a server of its own."""

    server: RedisServer
    client: Redis

    async def run(self, example: Example, items: Iterable[Item], **changes: str) -> Scene:
        """``changes``: settings that the janitor has different from the example's file."""

        async def sweep() -> None:
            await self.tick(scene, **changes)

        scene = Scene(example, "here", 1.0, witness=Witness(example.stream))
        return await self.run_by(scene, items, sweep)

    async def run_by(self, scene: Scene, items: Iterable[Item], sweep: Callable[[], Awaitable[None]]) -> Scene:
        settings = scene.example.stream
        assert scene.witness is not None
        await self.client.xgroup_create(settings.stream, settings.group, id="0", mkstream=True)
        async with watching(self.client, scene.witness):
            await self._produce(scene, list(items))
            self._process(scene.example)
            await sweep()
        return scene

    async def _produce(self, scene: Scene, items: list[Item]) -> None:
        sums: Counter[str] = Counter()
        for item in items:
            entry_id = await self.client.xadd(scene.example.stream.stream, dict(item.fields))
            sums.update(item.amounts)
            if item.is_named:
                scene.named.append((item.kind, entry_id.decode()))
        scene.produced, scene.kinds, scene.sums = len(items), Counter(item.kind for item in items), sums

    def _process(self, example: Example) -> None:
        with redis.Redis.from_url(self.server.url) as client:
            processor = FlakyProcessor(client, example, "processor-1", 0.0, random.Random(1))
            while entries := processor._read():
                for entry_id, fields in entries:
                    processor._process(entry_id, fields)

    async def tick(self, scene: Scene, **changes: str) -> None:
        values = {**scene.example.values, **self.server.environment, "MIN_IDLE_TIME_SEC": "0", **changes}
        janitor = Janitor(Settings.from_env(values))
        try:
            (report,) = await janitor.tick()
        finally:
            await janitor.close()
        scene.ticks.append(Tick(1, 0.0, 0.1, report.error, ({**report.as_dict(), "line": str(report)},), ()))

    async def broken(self, scene: Scene) -> list[str]:
        """The checks that do not hold."""
        return [check.text for check in await scene.example.check(self.client, scene) if not check.holds]


@pytest.fixture
async def small() -> AsyncIterator[SmallRun]:
    with RedisServer() as server:
        async with Redis.from_url(server.url, protocol=2) as client:
            yield SmallRun(server, client)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For runs that leave a document out: nobody waits for it."""
    monkeypatch.setattr("demo.check.INDEXING_TIMEOUT_S", 0.0)


SMALL = {
    "email": lambda: itertools.islice(events(1), 200),
    "visits": lambda: itertools.islice(visits(1), 200),
    "envelopes": lambda: itertools.islice(grants(1), 120),
}


@pytest.mark.parametrize("name", SMALL)
async def test_checks_hold_after_a_good_run(small: SmallRun, name: str) -> None:
    assert await small.broken(await small.run(EXAMPLES[name], SMALL[name]())) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", SMALL)
async def test_a_lost_entry_is_found(small: SmallRun, name: str) -> None:
    scene = await small.run(EXAMPLES[name], SMALL[name]())
    keys = sorted(await small.client.keys(EXAMPLES[name].stream.hash_prefix + "*"))
    await small.client.delete(keys[0])
    assert len(await small.broken(scene)) >= 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", SMALL)
async def test_what_is_still_pending_is_found(small: SmallRun, name: str) -> None:
    scene = await small.run(EXAMPLES[name], SMALL[name](), MIN_IDLE_TIME_SEC="3600")
    assert any(text.startswith("pending = ") for text in await small.broken(scene))


# --- email --------------------------------------------------------------------------------------------------------------


async def test_an_event_that_became_another_is_found_by_the_count(small: SmallRun) -> None:
    scene = await small.run(EMAIL, SMALL["email"]())
    await small.client.hset("email:mail-1:sent", "event_name", "clicked")
    assert any("differs from what was produced" in text for text in await small.broken(scene))


@pytest.mark.usefixtures("impatient")
async def test_a_key_of_the_id_alone_is_found(small: SmallRun) -> None:
    """Control: what ID_FIELDS=id,event_name is for."""
    broken = await small.broken(await small.run(EMAIL, SMALL["email"](), ID_FIELDS="id"))
    assert any("differs from what was produced" in text for text in broken)


# --- visits -------------------------------------------------------------------------------------------------------------


async def test_a_refused_document_that_no_report_names_is_found(small: SmallRun) -> None:
    scene = await small.run(VISITS, SMALL["visits"]())
    (tick,) = scene.ticks
    (report,) = tick.reports
    silent = {label: named for label, named in report["reasons"].items() if not label.startswith("unsearchable")}
    scene.ticks[:] = [Tick(1, 0.0, 0.1, None, ({**report, "reasons": silent},), ())]
    (text,) = await small.broken(scene)
    assert text.startswith(f"{len(scene.named_of(REFUSED))} visits made that the index refuses")


async def test_a_good_document_that_is_named_as_refused_is_found(small: SmallRun) -> None:
    scene = await small.run(VISITS, SMALL["visits"]())
    scene.named.remove(next(named for named in scene.named if named[0] == REFUSED))
    assert len(await small.broken(scene)) == 1


async def test_a_visit_without_session_that_is_no_dead_letter_is_found(small: SmallRun) -> None:
    scene = await small.run(VISITS, SMALL["visits"]())
    ((entry_id, _),) = await small.client.xrange("site_visits:dead", count=1)
    await small.client.xdel("site_visits:dead", entry_id)
    (text,) = await small.broken(scene)
    assert text.startswith(f"{len(scene.named_of(NO_SESSION))} visits made without a session")


# --- envelopes ----------------------------------------------------------------------------------------------------------


def named_checks(texts: list[str]) -> set[str]:
    known = {"hold exactly": "own", "handed out": "once", "to the cent": "money"}
    return {name for words, name in known.items() for text in texts if words in text}


async def test_a_janitor_that_overwrites_hands_out_money_twice(small: SmallRun) -> None:
    """Control: a user's second grant takes the place of the first, and the first one's money is nowhere."""
    broken = await small.broken(await small.run(ENVELOPES, SMALL["envelopes"](), ON_CONFLICT="overwrite"))
    assert {"once", "money"} <= named_checks(broken)


@pytest.mark.usefixtures("impatient")
async def test_janitors_that_look_first_and_write_then_hand_out_money_twice(small: SmallRun) -> None:
    """Control: several look at the same moment, each finds nobody there, each writes."""
    settings, client = ENVELOPES.stream, small.client

    async def look_then_write() -> None:
        rows: Any = await client.xpending_range(settings.stream, settings.group, "-", "+", 1000)
        ids = [row["message_id"] for row in rows]
        fields = [(await client.xrange(settings.stream, i, i))[0][1] for i in ids]
        keys = [settings.hash_prefix.encode() + grant[b"user"] for grant in fields]
        is_there = [await client.exists(key) for key in keys]
        for there, key, grant in zip(is_there, keys, fields, strict=True):
            if not there:
                await client.hset(key, mapping=grant)
        await client.xack(settings.stream, settings.group, *ids)

    all_abandoned = replace(ENVELOPES, faults=Faults(gives_up=1.0))
    scene = Scene(all_abandoned, "here", 1.0, witness=Witness(settings))
    scene = await small.run_by(scene, SMALL["envelopes"](), look_then_write)
    assert named_checks(await small.broken(scene)) == {"once", "money"}


async def test_a_second_write_of_the_same_envelope_is_found(small: SmallRun) -> None:
    """Control: it changes no hash, so only the witness can know."""
    settings, client = ENVELOPES.stream, small.client

    async def write_again() -> None:
        key = sorted(await client.keys(settings.hash_prefix + "*"))[0]
        await client.hset(key, mapping=await client.hgetall(key))
        await small.tick(scene)

    scene = Scene(ENVELOPES, "here", 1.0, witness=Witness(settings))
    await small.run_by(scene, SMALL["envelopes"](), write_again)
    assert named_checks(await small.broken(scene)) == {"once"}


async def test_a_grant_that_nobody_made_is_found(small: SmallRun) -> None:
    scene = await small.run(ENVELOPES, SMALL["envelopes"]())
    await small.client.hincrby("envelope_of:user-0", "amount_cents", 1)
    assert named_checks(await small.broken(scene)) == {"own", "money"}


# --- jobs ---------------------------------------------------------------------------------------------------------------


def some_jobs() -> list[Item]:
    return list(itertools.islice(jobs(1), 120))


async def until_at_rest(small: SmallRun, scene: Scene, sweep: Callable[[], Awaitable[None]]) -> None:
    """Sweep, and let a consumer read what came back, until nothing is left; twelve rounds are many."""
    settings = scene.example.stream
    for _ in range(12):
        await sweep()
        small._process(scene.example)
        summary: Any = await small.client.xpending(settings.stream, settings.group)
        if not summary["pending"]:
            return


async def run_jobs(small: SmallRun, sweep: Callable[[Scene], Awaitable[None]]) -> Scene:
    scene = Scene(JOBS, "here", 1.0, witness=Witness(JOBS.stream))
    return await small.run_by(scene, some_jobs(), lambda: until_at_rest(small, scene, lambda: sweep(scene)))


async def test_every_job_is_done_or_was_tried_often_enough(small: SmallRun) -> None:
    scene = await run_jobs(small, small.tick)
    assert await small.broken(scene) == []
    assert scene.dead_lettered >= 3


async def test_a_job_that_was_acknowledged_and_not_added_is_found(small: SmallRun) -> None:
    """Control: acknowledges first, and what is to be added is lost."""

    async def acknowledge(scene: Scene) -> None:
        settings, client = scene.example.stream, small.client
        rows: Any = await client.xpending_range(settings.stream, settings.group, "-", "+", 1000)
        await client.xack(settings.stream, settings.group, *(row["message_id"] for row in rows))

    scene = await run_jobs(small, acknowledge)
    assert any("jobs produced" in text for text in await small.broken(scene))


async def test_a_janitor_that_does_not_count_is_found(small: SmallRun) -> None:
    """Control: without a count a picture that no worker survives goes round for ever."""
    scene = await run_jobs(small, lambda scene: small.tick(scene, MAX_REQUEUES="off"))
    assert any("no worker survives" in text for text in await small.broken(scene))


async def test_a_job_that_was_added_twice_is_found(small: SmallRun) -> None:
    scene = await run_jobs(small, small.tick)
    entries: Any = await small.client.xrange(JOBS.stream.stream)
    _, copy = next(entry for entry in entries if b"requeue_count" in entry[1])
    await small.client.xadd(JOBS.stream.stream, copy)
    assert any("times a job was added again" in text for text in await small.broken(scene))


async def test_a_job_whose_fields_changed_on_the_way_is_found(small: SmallRun) -> None:
    scene = await run_jobs(small, small.tick)
    await small.client.hset("thumbnail:job-1", "width", "1")
    assert any("jobs produced" in text for text in await small.broken(scene))


# --- trades and the witness -----------------------------------------------------------------------------------------------

SECOND_US = 1_000_000


def script_line(at_us: int, by: str = "127.0.0.1:5") -> str:
    return f'{at_us // SECOND_US}.{at_us % SECOND_US:06} [0 {by}] "EVALSHA" "f00" "2" "trades" "{{trades}}:rate:trade_book"'


def xack_line(at_us: int, first: int, count: int, by: str = "lua") -> str:
    ids = " ".join(f'"17000000000{number:03}-0"' for number in range(first, first + count))
    return f'{at_us // SECOND_US}.{at_us % SECOND_US:06} [0 {by}] "XACK" "trades" "trade_book" {ids}'


def seen(*lines: str) -> Scene:
    scene = Scene(TRADES, "here", 1.0, witness=Witness(TRADES.stream))
    assert scene.witness is not None
    for line in lines:
        scene.witness.note(line)
    return scene


@pytest.mark.parametrize(("later_us", "holds"), [(SECOND_US - 1, False), (SECOND_US, True), (SECOND_US + 1, True)])
def test_a_second_that_holds_one_more_than_the_limit_is_found(later_us: int, holds: bool) -> None:
    at_us = 1_700_000_000_400_000
    lines = [
        script_line(at_us),
        xack_line(at_us + 9, 0, 50),
        script_line(at_us + later_us),
        xack_line(at_us + later_us, 50, 1),
    ]
    assert limit_held(seen(*lines)).holds is holds


def test_a_limit_that_never_had_to_bite_proves_nothing() -> None:
    assert not limit_held(seen(script_line(SECOND_US), xack_line(SECOND_US, 0, 50))).holds


def test_a_consumers_own_acknowledgements_are_not_the_janitors() -> None:
    at_us = 1_700_000_000_000_000
    scene = seen(xack_line(at_us, 0, 100, by="127.0.0.1:7"), script_line(at_us), xack_line(at_us, 100, 30))
    assert scene.witness is not None
    assert [run.count for run in scene.witness.taken_up()] == [30]


def test_an_entry_that_is_claimed_and_then_acknowledged_counts_once_when_it_was_claimed() -> None:
    at_us = 1_700_000_000_000_000
    claim = xack_line(at_us, 0, 30).replace("XACK", "XCLAIM").replace('"trade_book"', '"trade_book" "janitor-1" "1000"')
    scene = seen(script_line(at_us), f'{claim} "JUSTID"', xack_line(at_us + SECOND_US, 0, 30, by="127.0.0.1:9"))
    assert scene.witness is not None
    assert [(run.first_ms, run.count) for run in scene.witness.taken_up()] == [(at_us / 1000, 30)]


def test_words_of_monitor_are_read_as_they_stand() -> None:
    command = parsed(r'1339518083.107412 [0 127.0.0.1:60866] "hset" "a key" "say \"x\"" "\xff"')
    assert command is not None
    assert (command.at_us, command.by_script, command.name) == (1339518083107412, False, "HSET")
    assert command.words == ("hset", "a key", r"say \"x\"", r"\xff")
    assert parsed("OK") is None


async def test_the_witness_misses_nothing_that_ran_before_the_end(small: SmallRun) -> None:
    witness = Witness(TRADES.stream)
    async with watching(small.client, witness):
        for number in range(500):
            await small.client.hset(f"trade:{number}", "id", str(number))
        script = "for i = 1, 500 do redis.call('HSET', 'trade:' .. i, 'id', i) end"
        await small.client.eval(script, 0)
        await small.client.hset("somebody's", "id", "1")
    assert Counter(command.by_script for command in witness.named("HSET")) == {True: 500, False: 500}


def test_groups_are_typed_as_redis_cli_takes_them() -> None:
    query = Query("@id:{a\\-b}", ("GROUPBY", "1", "@event_name"))
    assert Answer(query, "email-index", 0, ()).typed == (
        r'FT.AGGREGATE email-index "@id:{a\\-b}" GROUPBY 1 "@event_name" DIALECT 2'
    )


def test_the_readme_types_the_examples_own_queries() -> None:
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8").split("\n## Examples\n")[1].split("\n## ")[0]
    typed = [tuple(shlex.split(line)) for line in text.splitlines() if line.startswith("FT.")]
    known = {
        _without_limit(query.command(example.stream.index_name)): name
        for name, example in EXAMPLES.items()
        for query in example.queries
    }
    asking = [name for name, example in EXAMPLES.items() if example.queries]
    assert sorted(known[_without_limit(words)] for words in typed) == sorted(asking)


def _without_limit(words: tuple[str, ...]) -> tuple[str, ...]:
    return (*words[:3], *words[6:]) if words[3:4] == ("LIMIT",) else words
