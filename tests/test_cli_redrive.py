"""Redrive goes where the action goes, mends what could never be stored as it is, and says when nothing moved."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.cli import Ran, inside, make_dead_letters, piped
from tests.conftest import Scene, Sweeper


def dead_letters(scene: Scene, command: str, *arguments: str, **changes: str) -> Ran:
    return inside({**scene.environment, **changes}, "dead-letters", command, "--json", *arguments)


def redrive(scene: Scene, *arguments: str, **changes: str) -> Ran:
    return dead_letters(scene, "redrive", *arguments, **changes)


def make_letter(scene: Scene, *fields: str, entry_id: str = "7-0") -> None:
    provenance = (
        "stream", scene.stream, "group", scene.group, "entry_id", entry_id, "reason", "no id field", "deliveries", 3,
        "last_consumer", "crashed", "dead_at_ms", 1_700_000_000_000,
    )  # fmt: skip
    scene.raw.execute_command("XADD", f"{scene.stream}:dead", "*", *provenance, *fields)


def in_stream(scene: Scene, stream: str = "") -> list[list[bytes]]:
    return [fields for _, fields in scene.raw.execute_command("XRANGE", stream or scene.stream, "-", "+")]


# --- where it goes --------------------------------------------------------------------------------------------------------


def test_under_requeue_it_goes_to_the_stream_by_default(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    record = redrive(scene, "--yes", ACTION="requeue").record
    assert (record["to"], record["sent"], len(in_stream(scene))) == ("stream", 2, 2)


def test_under_requeue_to_another_stream_it_goes_there(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    scene.raw.execute_command("XGROUP", "CREATE", f"{scene.stream}:again", "workers", "0", "MKSTREAM")
    ran = redrive(scene, "--yes", ACTION="requeue", REQUEUE_TO=f"{scene.stream}:again")
    assert ran.record["sent"] == 2
    assert "workers" in ran.err
    assert (len(in_stream(scene, f"{scene.stream}:again")), in_stream(scene)) == (2, [])


def test_a_target_without_a_group_keeps_the_letters(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    scene.raw.execute_command("XADD", f"{scene.stream}:again", "*", "a", "b")
    ran = redrive(scene, "--yes", ACTION="requeue", REQUEUE_TO=f"{scene.stream}:again")
    assert (ran.code, len(scene.dead_letters())) == (1, 2)
    assert "nobody would read them" in ran.err


def test_a_target_that_does_not_exist_keeps_the_letters_and_no_right_is_blamed(scene: Scene) -> None:
    make_dead_letters(scene, 2)
    ran = redrive(scene, "--yes", ACTION="requeue", REQUEUE_TO=f"{scene.stream}:never-made")
    assert (ran.code, len(scene.dead_letters())) == (1, 2)
    assert "nobody would read them" in ran.err
    assert "XINFO" not in ran.err


@pytest.mark.parametrize("action", ["dead_letter", "observe"])
def test_where_the_action_sends_nothing_on_it_has_to_be_said(scene: Scene, action: str) -> None:
    make_dead_letters(scene, 1)
    ran = redrive(scene, ACTION=action)
    assert (ran.code, len(scene.dead_letters())) == (2, 1)
    assert "--to store" in ran.err
    assert redrive(scene, "--to", "store", ACTION=action).record["stored"] == 1


def test_the_handler_is_refused_until_it_is_there(scene: Scene) -> None:
    make_dead_letters(scene, 1)
    ran = redrive(scene, "--to", "handler")
    assert (ran.code, len(scene.dead_letters())) == (2, 1)


async def test_a_redrive_into_the_stream_starts_the_count_anew(scene: Scene, sweep: Sweeper) -> None:
    scene.add("id", "1", "requeue_count", "5", "original_entry_id", "5-5")
    scene.abandon()
    report = await sweep(scene.settings(ACTION="requeue"))
    assert report.dead_lettered == 1
    environment = {**scene.environment, "ACTION": "requeue"}
    await asyncio.to_thread(piped, environment, "dead-letters", "redrive", "--yes")
    assert in_stream(scene)[1:] == [[b"id", b"1", b"original_entry_id", b"5-5"]]


def test_a_count_that_is_the_users_own_stays(scene: Scene) -> None:
    make_letter(scene, "id", "1", "requeue_count", "5")
    redrive(scene, "--to", "stream", "--yes")
    assert in_stream(scene) == [[b"id", b"1", b"requeue_count", b"5"]]


# --- mending --------------------------------------------------------------------------------------------------------------


def test_a_letter_without_an_id_can_be_given_one(scene: Scene) -> None:
    make_letter(scene, "text", "hello")
    ran = redrive(scene)
    assert (ran.code, ran.record["reasons"]["no id field"]["count"]) == (1, 1)
    assert redrive(scene, "--set", "id=@entry", "--set", "by=hand").record["stored"] == 1
    assert scene.hash("7-0") == {b"id": b"7-0", b"text": b"hello", b"by": b"hand"}
    assert scene.dead_letters() == []


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("a=new", [b"a", b"new", b"id", b"1"]),
        ("b=", [b"a", b"x", b"id", b"1", b"a", b"y", b"b", b""]),
        ("b=k=v", [b"a", b"x", b"id", b"1", b"a", b"y", b"b", b"k=v"]),
        ("b=@@entry", [b"a", b"x", b"id", b"1", b"a", b"y", b"b", b"@entry"]),
        ("b=@entry", [b"a", b"x", b"id", b"1", b"a", b"y", b"b", b"7-0"]),
    ],
)
def test_a_field_is_set_in_place_of_those_of_its_name_or_behind_the_others(
    scene: Scene, option: str, expected: list[bytes]
) -> None:
    make_letter(scene, "a", "x", "id", "1", "a", "y")
    redrive(scene, "--to", "stream", "--yes", "--set", option)
    assert in_stream(scene) == [expected]


@pytest.mark.parametrize("option", ["", "id", "=x", "id=@else"])
def test_what_cannot_be_set_is_refused_before_anything_is_sent(scene: Scene, option: str) -> None:
    make_letter(scene, "text", "hello")
    ran = redrive(scene, "--set", option)
    assert (ran.code, len(scene.dead_letters())) == (2, 1)
    assert "--set" in ran.err


def test_a_dry_run_mends_as_well(scene: Scene) -> None:
    make_letter(scene, "text", "hello")
    record = redrive(scene, "--set", "id=@entry", "--dry-run").record
    assert (record["stored"], len(scene.dead_letters()), scene.hashes()) == (1, 1, [])


# --- nothing moved ----------------------------------------------------------------------------------------------------------


def test_the_exit_code_says_that_nothing_was_moved(scene: Scene) -> None:
    assert redrive(scene).code == 1
    make_letter(scene, "text", "no id")
    ran = redrive(scene)
    assert (ran.code, ran.record["stays"]) == (1, 1)
    assert "no dead letter was moved" in ran.err
    make_dead_letters(scene, 1)
    assert redrive(scene).code == 0
    assert redrive(scene, "--dry-run").code == 0


# --- summary, export, ls ------------------------------------------------------------------------------------------------------


def test_a_summary_counts_by_reason_the_most_frequent_first(scene: Scene) -> None:
    make_dead_letters(scene, 2, reason="empty id")
    make_dead_letters(scene, 3, reason="unknown error ERR")
    make_dead_letters(scene, 1, group="another")
    make_letter(scene, "text", "old")
    record = dead_letters(scene, "summary").record
    counts = {one["reason"]: one["count"] for one in record["reasons"]}
    assert (record["total"], list(counts.items())) == (
        6, [("unknown error ERR", 3), ("empty id", 2), ("no id field", 1)],
    )  # fmt: skip
    assert record["reasons"][2]["oldest_dead_at_ms"] == record["reasons"][2]["newest_dead_at_ms"] == 1_700_000_000_000
    told = inside(scene.environment, "dead-letters", "summary").out
    assert "2023-11-14" in told
    assert dead_letters(scene, "summary", "--reason", "empty").record["total"] == 2


def test_an_export_holds_every_letter_whole_one_a_line(scene: Scene) -> None:
    scene.raw.execute_command("XADD", f"{scene.stream}:dead", "*", "id", "an intruder")
    make_dead_letters(scene, 60)
    make_letter(scene, "text", "\x1b[2J\n")
    ran = inside(scene.environment, "dead-letters", "export")
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert len(records) == 61
    assert {one["kind"] for one in records} == {"dead_letter"}
    assert records[-1]["fields"] == [["text", "\x1b[2J\n"]]
    assert (records[-1]["entry_id"], records[-1]["reason"]) == ("7-0", "no id field")
    assert "\x1b" not in ran.out


def test_ls_tells_how_many_there_are(scene: Scene) -> None:
    make_dead_letters(scene, 3)
    assert f"the first 2 (--limit) of 3 in {scene.stream}:dead" in dead_letters(scene, "ls", "--limit", "2").err
    assert f"3 of 3 in {scene.stream}:dead" in inside(scene.environment, "dead-letters", "ls").out
    assert len(dead_letters(scene, "ls").records) == 3
