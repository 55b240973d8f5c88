"""The benchmark measures what it says it measures. Nothing here looks at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import tweets
from bench.child import Child
from bench.cold_start import ColdStart, measure_cold_starts
from bench.goals import check_goals, goals_table
from bench.idle_ticks import measure_idle_ticks
from bench.memory import measure_memory
from bench.methods import CLUSTERED, COMPARED, LIMITED, METHODS, REQUEUEING, SPREAD_OVER
from bench.prepared import PREFIX, PreparedFiles, Seed
from bench.rate_window import RateWindow, measure_rate_window
from bench.results import CLUSTER, GROWTH, MAIN, REQUEUE, SPREAD, Results
from bench.retained import RetainedRun, measure_retention
from bench.rounds import NotSettled, Round, check_requeued, check_settled, run_round
from bench.setups import SETUPS
from bench.small_stream import SmallStream, measure_small_stream
from bench.table import tables
from bench.target import Target
from demo.redis import RedisServer

pytestmark = pytest.mark.more

ENTRIES = 300
BYSTANDER = {"requests": 100, "p50_ms": 0.1, "p99_ms": 1.0, "max_ms": 2.0, "cpu_share": 0.02}
MACHINE = {
    "date": "2020-04-08",
    "cpu": "a processor",
    "cores": 2,
    "memory_gb": 4.0,
    "kernel": "Linux",
    "python": "3.11.7",
    "redis_server": "8.2.3",
    "search_module": "2.10.5",
    "packages": {"redis": "8.1.0", "faststream": None},
}


@pytest.fixture
def files(tmp_path: Path) -> PreparedFiles:
    return PreparedFiles(tmp_path)


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not-indexed"])
@pytest.mark.parametrize("method", COMPARED)
def test_every_method_settles_every_entry(files: PreparedFiles, method: str, indexed: bool) -> None:
    if method == "faststream":
        pytest.importorskip("faststream.redis")
    attempts = run_round(files, MAIN, method, indexed, ENTRIES, 0)  # raises NotSettled
    assert attempts[-1].entries == ENTRIES
    assert attempts[-1].bystander["requests"] > 0


@pytest.mark.parametrize("method", REQUEUEING)
def test_every_way_to_requeue_adds_every_entry_and_what_is_missing_is_noticed(
    files: PreparedFiles, method: str
) -> None:
    attempts = run_round(files, REQUEUE, method, False, ENTRIES, 0)  # raises NotSettled
    assert attempts[-1].entries == ENTRIES
    with SETUPS[METHODS[method].setup](files, ENTRIES, False) as target:
        target.seed(files)
        with pytest.raises(NotSettled):
            check_requeued(target)


@pytest.mark.parametrize("method", SPREAD_OVER)
def test_one_tick_settles_one_stream_or_eight(files: PreparedFiles, method: str) -> None:
    (round_,) = run_round(files, SPREAD, method, True, ENTRIES, 0)  # raises NotSettled
    assert round_.net_in_bytes > ENTRIES
    with SETUPS[METHODS[method].setup](files, ENTRIES, False) as target:
        assert len(target.streams) == (8 if method.endswith("eight-streams") else 1)
        assert sum(len(part.numbers) for part in target.streams) == ENTRIES


@pytest.mark.parametrize("method", [name for name in CLUSTERED if name.startswith("cluster-")])
def test_every_way_in_a_cluster_settles_every_entry_and_what_is_missing_is_noticed(
    files: PreparedFiles, method: str
) -> None:
    (round_,) = run_round(files, CLUSTER, method, False, ENTRIES, 0)  # raises NotSettled
    assert round_.entries == ENTRIES
    with SETUPS[METHODS[method].setup](files, ENTRIES, False) as target:
        target.seed(files)
        assert target.pending() == ENTRIES
        with pytest.raises(NotSettled):
            check_settled(target)


@pytest.mark.parametrize("mode", ["script", "gather"])
def test_small_stream_is_clean_before_the_large_one(files: PreparedFiles, mode: str) -> None:
    run = measure_small_stream(files, mode, 20_000)
    assert (run.ticks, run.small_entries) == (1, 10)
    assert run.clean_after_s < run.first_tick_s


def test_rate_window_is_what_the_witness_saw(files: PreparedFiles) -> None:
    run = measure_rate_window(files, "script", 50, 3)
    assert 0 < run.fullest_second <= 50
    assert run.taken_up == sum(run.processed_by)


def test_memory_is_measured_with_the_data_of_every_example() -> None:
    measured = measure_memory(3_000)
    assert {item.example for item in measured} == {"tweets", "email", "trades", "visits", "envelopes"}
    for item in measured:
        assert item.hash > item.payload
        assert min(item.in_stream, item.pending, item.index, item.dead_letter) > 0


@pytest.mark.parametrize("method", LIMITED)
def test_a_rate_limit_that_does_not_bite_is_on_and_leaves_nothing(files: PreparedFiles, method: str) -> None:
    with RedisServer(search=False) as server, Target(server.port, ENTRIES, indexed=False).client() as client:
        target = Target(server.port, ENTRIES, indexed=False)
        target.create_groups_and_index()
        with Child("bench.worker", method, target.to_json()) as worker:
            worker.hear()
            files.seed(server.port, Seed.ABANDONED, ENTRIES)
            worker.ask("go")
        check_settled(target)
        assert client.hvals("{tweets_stream}:rate:redisearch_app_group")


def test_round_that_stored_or_acknowledged_too_little_is_noticed(files: PreparedFiles) -> None:
    with RedisServer() as server, Target(server.port, ENTRIES, indexed=True).client() as client:
        target = Target(server.port, ENTRIES, indexed=True, limit_file=str(files.limit(ENTRIES)))
        target.create_groups_and_index()
        files.seed(server.port, Seed.ABANDONED, ENTRIES)
        with pytest.raises(NotSettled):
            check_settled(target)
        with Child("bench.worker", "limit", target.to_json()) as worker:
            worker.hear()
            worker.ask("go")
        check_settled(target)
        client.hset(PREFIX + tweets.tweet_id(0), "text", "not what the entry held")
        with pytest.raises(NotSettled):
            check_settled(target)
        client.delete(PREFIX + tweets.tweet_id(1))
        with pytest.raises(NotSettled):
            check_settled(target)


@pytest.mark.parametrize("kind", Seed)
def test_seeded_entries_are_pending_as_their_kind_says(files: PreparedFiles, kind: Seed) -> None:
    with RedisServer(search=False) as server:
        target = Target(server.port, ENTRIES, indexed=False)
        target.create_groups_and_index()
        files.seed(server.port, kind, ENTRIES)
        with target.client() as client:
            rows = client.xpending_range("tweets_stream", "redisearch_app_group", "-", "+", ENTRIES)
    assert len(rows) == ENTRIES
    assert {row["times_delivered"] for row in rows} == {1}
    assert all((row["time_since_delivered"] >= 3_600_000) == (kind is Seed.ABANDONED) for row in rows)
    assert (rows[0]["message_id"] == tweets.entry_id(0)) == (kind is not Seed.IN_FLIGHT)


def test_idle_ticks_settle_nothing_and_find_their_slowest_command(files: PreparedFiles) -> None:
    nothing, in_flight, catching_up = measure_idle_ticks(files, 3_000, 2)
    assert [nothing.pending, in_flight.pending, catching_up.pending] == [0, 3_000, 3_000]
    assert len(catching_up.ticks_s) == 2


def test_cold_start_runs_in_processes_of_its_own() -> None:
    (start,) = measure_cold_starts(1)
    assert min(start.import_s, start.first_tick_s, start.libraries_s) > 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_nothing_exported_here_reaches_a_helper_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "production.example.com")
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    with RedisServer(search=False) as server, Child("bench.bystander", str(server.port)) as bystander:
        assert bystander.hear() == "ready"
        assert b"REDIS_" not in Path(f"/proc/{bystander.pid}/environ").read_bytes()


def test_retention_is_measured_over_entries_that_all_may_go(tmp_path: Path) -> None:
    runs = measure_retention(PreparedFiles(tmp_path), 5_000)
    assert [(run.entries, run.trimmed) for run in runs] == [(5_000, 4_999), (10, 9)]
    assert all(run.slices > 0 and run.seconds > 0 and "requests" in run.bystander for run in runs)


def made_up_results() -> Results:
    rounds = [
        Round(section, method, indexed, entries, number, False, 1.0 + number, 0.1, 30.0, 1.0, 0.99, BYSTANDER)
        for section, entries in ((MAIN, 1_000), (GROWTH, 10_000), (GROWTH, 1_000_000))
        for method in COMPARED
        for indexed in (True, False)
        for number in range(3)
    ]
    rounds += [
        Round(SPREAD, method, True, 160_000, 0, False, seconds, 0.1, 30.0, 1.0, 0.99, BYSTANDER)
        for method, seconds in (("script-one-stream", 4.0), ("script-eight-streams", 5.0))
    ]
    rounds += [
        Round(REQUEUE, method, False, 1_000, 0, False, seconds, 0.1, 30.0, 1.0, 0.99, BYSTANDER)
        for method, seconds in (("requeue-limit", 1.0), ("requeue-script", 1.3))
    ]
    return Results(
        machine=dict(MACHINE),
        rounds=rounds,
        cold_starts=[ColdStart(0.3, 0.01, 0.25)],
        small_streams=[SmallStream("script", 1_000_000, 10, ticks, 0.05, 15.0, 400_000) for ticks in (1, 3)],
        retained=[
            RetainedRun("tweets", 1_000_000, 999_999, 0.2, 130, "EVALSHA", 2.9, BYSTANDER),
            RetainedRun("100 kB each", 2_000, 1_999, 0.1, 20, "EVALSHA", 2.1, {**BYSTANDER, "p99_ms": 11.0}),
        ],
        rate_windows=[RateWindow("script", 100, 61.0, 4_700, 101, [4_700]), RateWindow("gather", 100, 61.0, 9, 9, [9])],
    )


def test_results_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    results = made_up_results()
    results.save(tmp_path / "run.json")
    assert Results.load(tmp_path / "run.json") == results


def test_table_holds_the_median_of_each_method() -> None:
    text = tables(made_up_results())
    for method in COMPARED:
        assert COMPARED[method].label in text
    assert "| 500 " in text.replace("  ", "")  # 1,000 entries in 1, 2 and 3 s
    assert "1.24" in text  # the cold start's ratio
    assert "RediSearch 2.10.5" in text


def test_void_rounds_do_not_count() -> None:
    results = made_up_results()
    slow = Round(MAIN, "limit", True, 1_000, 0, True, 99.0, 0.1, 30.0, 1.0, 0.5, BYSTANDER)
    results.rounds += [slow] * 9
    summary = results.summary(MAIN, "limit", True)
    assert summary is not None
    assert (summary.valid_rounds, summary.void_rounds, summary.seconds) == (3, 9, 2.0)


def test_goal_is_missed_met_or_not_measured() -> None:
    verdicts = {goal.promise: goal.verdict for goal in check_goals(made_up_results())}
    assert verdicts["script ÷ limit, indexed"] == "met"
    assert verdicts["script ÷ FastStream, indexed"] == "MISSED"
    assert verdicts["slowest command, 1M old ids just delivered, ms"] == "not measured"
    assert verdicts["script, indexed: eight streams ÷ one, one tick"] == "MISSED"
    assert verdicts["gather, indexed: eight streams ÷ one, one tick"] == "not measured"
    assert verdicts["script, 10 entries beside 1M: ticks until clean, worst"] == "MISSED"
    assert verdicts["script, fullest second of three janitors ÷ limit"] == "MISSED"
    assert verdicts["requeue by script ÷ its limit"] == "MISSED"
    assert verdicts["gather, fullest second of three janitors ÷ limit"] == "met"
    assert verdicts["bystander p99 while 1M entries are trimmed, ms"] == "MISSED"
    assert "MISSED" in goals_table(check_goals(made_up_results()))


def test_chart_is_drawn_from_the_json(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.chart import draw

    written = draw(made_up_results(), tmp_path / "run.json")
    assert [path.suffix for path in written] == [".svg", ".png"]
    assert written[0].read_text(encoding="utf-8").startswith("<?xml")
    assert written[1].read_bytes().startswith(b"\x89PNG")
