from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable

import pytest
import redis

from demo.redis import RedisServer
from monitor.dead_letter import DeadLetter, read_letter
from monitor.redrive import DESTINATIONS, Redrive
from shared.redis_client import Command, RedisLink
from tests.cli import Ran, eventually, finished, inside, make_dead_letters, on_terminal, piped, start
from tests.conftest import Scene, Sweeper, Wire


def redrive(scene: Scene, *arguments: str, **changes: str) -> Ran:
    return inside({**scene.environment, **changes}, "dead-letters", "redrive", "--json", *arguments)


async def redriven(scene: Scene, **changes: str) -> Ran:
    """For tests that are in an event loop already."""
    return await asyncio.to_thread(piped, {**scene.environment, **changes}, "dead-letters", "redrive", "--json")


async def dead_tweet(scene: Scene, sweep: Sweeper, *fields: bytes | str, key: str = "1") -> bytes:
    """An entry that really became a dead letter, since its key held another type, which it no longer does; its id."""
    scene.raw.execute_command("SADD", f"{scene.prefix}{key}", "in the way")
    scene.add("id", key, *fields)
    (entry_id,) = scene.abandon()
    report = await sweep(scene.settings())
    assert report.dead_lettered == 1
    scene.raw.execute_command("DEL", f"{scene.prefix}{key}")
    return entry_id


async def test_a_redriven_letter_is_stored_byte_for_byte_and_leaves_the_dead_letter_stream(
    scene: Scene, sweep: Sweeper
) -> None:
    await dead_tweet(scene, sweep, b"\xff\x00", b"\r\n\x80", "twice", "a", "twice", "b", "traceparent", "00-1-2-01")
    assert (await redriven(scene)).record["stored"] == 1
    assert scene.hash("1") == {b"id": b"1", b"\xff\x00": b"\r\n\x80", b"twice": b"b"}
    assert scene.dead_letters() == []


async def test_trace_fields_are_stored_if_the_settings_keep_them(scene: Scene, sweep: Sweeper) -> None:
    await dead_tweet(scene, sweep, "traceparent", "00-1-2-01")
    await redriven(scene, KEEP_TRACE_FIELDS="true")
    assert scene.hash("1")[b"traceparent"] == b"00-1-2-01"


async def test_under_entry_a_redriven_letter_is_stored_under_the_id_of_its_original_entry(
    scene: Scene, sweep: Sweeper
) -> None:
    """Neither the letter's own id nor a new one."""
    entry_id = scene.add("user", "jo")
    scene.raw.execute_command("SADD", scene.prefix.encode() + entry_id, "in the way")
    scene.abandon()
    assert (await sweep(scene.settings(ID_FIELDS="@entry"))).dead_lettered == 1
    scene.raw.execute_command("DEL", scene.prefix.encode() + entry_id)
    assert (await redriven(scene, ID_FIELDS="@entry")).record["stored"] == 1
    assert (scene.hash(entry_id), len(scene.hashes())) == ({b"user": b"jo"}, 1)


@pytest.mark.parametrize(("offset_ms", "outcome"), [(-1, "stored"), (0, "stored"), (1, "superseded")])
async def test_newer_judges_a_letter_by_the_id_of_its_original_entry(
    scene: Scene, sweep: Sweeper, offset_ms: int, outcome: str
) -> None:
    entry_id = await dead_tweet(scene, sweep)
    held = b"%d-0" % (int(entry_id.split(b"-")[0]) + offset_ms)
    scene.raw.execute_command("HSET", f"{scene.prefix}1", "stream_entry_id", held, "text", "held")
    assert (await redriven(scene, ON_CONFLICT="newer")).record[outcome] == 1
    assert scene.hash("1")[b"stream_entry_id"] == max(held, entry_id)
    assert scene.dead_letters() == []


async def test_keep_leaves_a_hash_as_it_is_and_the_letter_goes(scene: Scene, sweep: Sweeper) -> None:
    await dead_tweet(scene, sweep)
    scene.raw.execute_command("HSET", f"{scene.prefix}1", "text", "held")
    assert (await redriven(scene, ON_CONFLICT="keep")).record["kept"] == 1
    assert scene.hash("1") == {b"text": b"held"}


@pytest.mark.parametrize("conflict", ["overwrite", "newer", "keep"])
def test_a_letter_that_still_cannot_be_stored_stays_and_never_stops_the_others(scene: Scene, conflict: str) -> None:
    make_dead_letters(scene, 3)
    scene.raw.execute_command("SADD", f"{scene.prefix}d1", "in the way")
    ran = redrive(scene, ON_CONFLICT=conflict)
    record = ran.record
    assert (ran.code, record["arrived"], record["stays"]) == (0, 2, 1)
    assert list(record["reasons"]) == ["hash key holds another type"]
    assert len(scene.dead_letters()) == 1


def test_to_stream_names_the_other_groups_and_wants_a_yes(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, "audit", "0")
    ran = redrive(scene, "--to", "stream")
    assert ran.code == 2
    assert "audit" in ran.err
    assert "--yes" in ran.err
    assert len(scene.dead_letters()) == 2
    assert redrive(scene, "--to", "stream", "--yes").record["sent"] == 2
    assert scene.dead_letters() == []
    entries = scene.raw.execute_command("XRANGE", scene.stream, "-", "+")
    assert [fields for _, fields in entries] == [[b"id", b"d0", b"text", b"hello"], [b"id", b"d1", b"text", b"hello"]]


def test_to_stream_is_refused_where_new_ids_would_make_old_entries_win(scene: Scene) -> None:
    make_dead_letters(scene, 1)
    ran = redrive(scene, "--to", "stream", "--yes", ON_CONFLICT="newer")
    assert (ran.code, len(scene.dead_letters())) == (2, 1)
    assert "ON_CONFLICT=newer" in ran.err


def test_a_dry_run_tells_the_same_and_changes_nothing(scene: Scene) -> None:
    make_dead_letters(scene, 3)
    scene.raw.execute_command("SADD", f"{scene.prefix}d1", "in the way")
    before = scene.dead_letters()
    expected = redrive(scene, "--dry-run").record
    assert scene.dead_letters() == before
    assert scene.hash("d0") == {}
    done = redrive(scene).record
    assert {**expected, "dry_run": False} == done


@pytest.mark.parametrize("name", ["letter", "entry"])
def test_one_letter_can_be_named_by_its_own_id_or_that_of_its_entry(scene: Scene, name: str) -> None:
    ids = make_dead_letters(scene, 3)
    entry_id = dict(zip(ids, (fields[5] for _, fields in scene.dead_letters()), strict=True))[ids[1]]  # type: ignore[index]
    wanted = ids[1] if name == "letter" else entry_id
    assert redrive(scene, "--id", wanted.decode()).record["arrived"] == 1
    assert set(scene.hashes()) == {f"{scene.prefix}d1".encode()}


def test_letters_can_be_selected_by_reason_and_time(scene: Scene) -> None:
    make_dead_letters(scene, 1, reason="unknown error ERR")
    time.sleep(0.01)
    ids = make_dead_letters(scene, 2, reason="no id field")
    assert redrive(scene, "--reason", "unknown", "--dry-run").record["arrived"] == 1
    assert redrive(scene, "--reason", "no_id", "--dry-run").record["arrived"] == 2
    assert redrive(scene, "--since", "1h", "--dry-run").record["arrived"] == 3
    assert redrive(scene, "--until", "1h", "--dry-run").record["arrived"] == 0
    at_ms = int(ids[0].split(b"-")[0])
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms // 1000)) + f".{at_ms % 1000:03d}Z"
    assert redrive(scene, "--since", since, "--dry-run").record["arrived"] == 2
    assert redrive(scene, "--since", "yesterday").code == 2


def test_letters_of_another_group_and_what_is_no_letter_are_left(scene: Scene) -> None:
    make_dead_letters(scene, 1, group="another")
    scene.raw.execute_command("XADD", f"{scene.stream}:dead", "*", "id", "intruder")
    make_dead_letters(scene, 1)
    assert redrive(scene).record["arrived"] == 1
    assert len(scene.dead_letters()) == 2
    assert inside(scene.environment, "dead-letters", "purge", "--yes", "--json").record["deleted"] == 0
    intruder = scene.dead_letters()[1][0]
    assert isinstance(intruder, bytes)
    assert read_letter(intruder, [b"id", b"intruder"]) is None
    assert (
        inside(scene.environment, "dead-letters", "purge", "--yes", "--id", intruder.decode(), "--json").record[
            "deleted"
        ]
        == 1
    )


def test_a_rate_is_kept(scene: Scene) -> None:
    make_dead_letters(scene, 11)
    began_s = time.monotonic()
    assert redrive(scene, "--rate", "20/s").record["arrived"] == 11
    assert time.monotonic() - began_s >= 0.5


# --- cut off midway -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conflict", ["overwrite", "newer"])
def test_a_redrive_that_is_killed_and_run_again_loses_nothing(scene: Scene, conflict: str) -> None:
    make_dead_letters(scene, 60)
    environment = {**scene.environment, "ON_CONFLICT": conflict}
    process = start(environment, "dead-letters", "redrive", "--rate", "50/s")
    eventually(lambda: len(scene.dead_letters()) < 55)
    process.kill()
    finished(process)
    left = len(scene.dead_letters())
    assert 0 < left < 55
    assert len(scene.hashes()) >= 60 - left
    assert redrive(scene, ON_CONFLICT=conflict).record["arrived"] == left
    assert len(scene.hashes()) == 60
    assert all(scene.hash(f"d{number}")[b"text"] == b"hello" for number in range(60))
    assert scene.dead_letters() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_redrive_finishes_what_is_in_hand_and_says_how_to_go_on(
    scene: Scene, number: signal.Signals
) -> None:
    make_dead_letters(scene, 60)
    process = start(scene.environment, "dead-letters", "redrive", "--rate", "50/s", "--json")
    eventually(lambda: len(scene.dead_letters()) < 58)
    process.send_signal(number)
    ran = finished(process)
    assert ran.code == 130
    assert "run it again" in ran.err
    assert (ran.record["complete"], ran.record["arrived"]) == (False, 60 - len(scene.dead_letters()))


async def _letters(scene: Scene) -> list[DeadLetter]:
    letters = [read_letter(entry_id, pairs) for entry_id, pairs in scene.dead_letters()]  # type: ignore[arg-type]
    return [letter for letter in letters if letter is not None]


@pytest.mark.parametrize("where", ["store", "stream"])
async def test_a_letter_leaves_only_after_it_arrived(scene: Scene, link: RedisLink, where: str) -> None:
    """At the moment of the XDEL every letter is where it was to go, and cut off there, it is in both places."""
    make_dead_letters(scene, 5)
    wire = Wire(link)

    def cut_off(command: Command) -> Awaitable[None] | None:
        if command[0] == "XDEL":
            arrived = scene.raw.execute_command("XLEN", scene.stream) if where == "stream" else len(scene.hashes())
            assert (arrived, len(scene.dead_letters())) == (5, 5)
            raise redis.ConnectionError
        return None

    wire.before = cut_off
    settings = scene.settings().streams[0]
    with pytest.raises(redis.ConnectionError):
        await Redrive(link, settings, DESTINATIONS[where](link, settings)).take(await _letters(scene))
    assert len(scene.dead_letters()) == 5
    wire.before = lambda command: None
    results = await Redrive(link, settings, DESTINATIONS[where](link, settings)).take(await _letters(scene))
    assert {result.outcome for result in results} == {"sent" if where == "stream" else "stored"}
    assert scene.dead_letters() == []
    assert len(scene.hashes()) == (0 if where == "stream" else 5)


def test_a_server_that_refuses_writes_keeps_the_letters(own_server: RedisServer, own_scene: Scene) -> None:
    make_dead_letters(own_scene, 3)
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", "1")
    for arguments in ((), ("--to", "stream", "--yes")):
        ran = redrive(own_scene, *arguments)
        assert ran.code == 1
        assert "out of memory" in ran.err
    assert len(own_scene.dead_letters()) == 3


def test_letters_stay_while_too_few_replicas_confirm(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    record = redrive(scene, ACK_REPLICAS="1").record
    assert list(record["reasons"]) == ["too few replicas confirmed it"]
    assert len(scene.dead_letters()) == 2


# --- ls, purge ------------------------------------------------------------------------------------------------------------


def test_ls_and_purge_take_the_same_selection(scene: Scene) -> None:
    make_dead_letters(scene, 2, reason="no id field")
    make_dead_letters(scene, 3, reason="empty id")
    assert len(inside(scene.environment, "dead-letters", "ls", "--json", "--reason", "empty").records) == 3
    assert len(inside(scene.environment, "dead-letters", "ls", "--json", "--limit", "4").records) == 4
    dry = inside(scene.environment, "dead-letters", "purge", "--reason", "empty", "--dry-run", "--json").record
    assert (dry["selected"], dry["deleted"]) == (3, 0)
    assert (
        inside(scene.environment, "dead-letters", "purge", "--reason", "empty", "--yes", "--json").record["deleted"]
        == 3
    )
    assert len(scene.dead_letters()) == 2


@pytest.mark.parametrize(("answer", "left", "code"), [(b"y\n", 0, 0), (b"n\n", 2, 0), (b"\n", 2, 0), (b"\x03", 2, 130)])
def test_purge_asks_on_a_terminal(scene: Scene, answer: bytes, left: int, code: int) -> None:
    make_dead_letters(scene, 2)
    ran = on_terminal(scene.environment, "dead-letters", "purge", answer=answer)
    assert "Delete 2 dead letters" in ran.out
    assert (len(scene.dead_letters()), ran.code) == (left, code), ran


def test_purge_wants_a_yes_where_nobody_can_be_asked(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    ran = inside(scene.environment, "dead-letters", "purge")
    assert (ran.code, len(scene.dead_letters())) == (2, 2)
    assert "--yes" in ran.err


def test_without_a_dead_letter_stream_the_commands_say_so(scene: Scene) -> None:
    ran = inside({**scene.environment, "DEAD_LETTER_STREAM": "off"}, "dead-letters", "ls")
    assert (ran.code, "DEAD_LETTER_STREAM is off" in ran.err) == (2, True)


@pytest.mark.parametrize("command", ["ls", "summary", "export", "redrive", "purge"])
def test_a_key_of_another_type_in_the_dead_letters_place_is_named_with_its_setting(scene: Scene, command: str) -> None:
    scene.raw.execute_command("SET", f"{scene.stream}:dead", "in the way")
    ran = inside(scene.environment, "dead-letters", command, *(["--yes"] if command == "purge" else []))
    assert ran.code == 1
    assert f"'{scene.stream}:dead', where the dead letters should lie, is a key of another type" in ran.err
    assert "DEAD_LETTER_STREAM" in ran.err
