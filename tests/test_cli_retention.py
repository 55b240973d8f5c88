"""``retention``, ``groups ls``, and what ``status`` and ``doctor`` say of retention."""

from __future__ import annotations

import json
import signal

import pytest
import redis

from monitor.cli.call import Stop
from monitor.cli.retention import _UntilStopped
from monitor.retained import Policy
from monitor.retention import Retention
from monitor.scripts import retention_script
from shared.redis_client import ServerLink
from tests.cli import HOSTILE, dangerous, inside, on_terminal, without_styles
from tests.conftest import Scene, Wire
from tests.retaining import HOUR_MS, Kept
from tests.test_cli_doctor import Grant, Problems, doctor
from tests.test_cli_doctor import grant as grant  # a fixture

RETAIN = {"RETAIN_SEC": "3600", "INDEX_SCHEMA": "off"}


@pytest.fixture
def kept(scene: Scene) -> Kept:
    """300 entries a day old that the group has finished with."""
    scene.environment.update(RETAIN)
    scene.add_tweets(300)
    kept = Kept(scene.raw, scene.stream)
    kept.finish(scene.group)
    return kept


def test_retention_trims_by_hand_and_says_how_much(scene: Scene, kept: Kept) -> None:
    ran = inside(scene.environment, "retention")
    assert (ran.code, ran.out, ran.err) == (0, f"{scene.stream}: 299 trimmed; length 1\n", "")
    assert kept.length() == 1


def test_a_dry_run_says_what_would_go_and_trims_nothing(scene: Scene, kept: Kept) -> None:
    record = inside(scene.environment, "retention", "--dry-run", "--json").record
    assert (record["kind"], record["dry_run"], record["trimmed"], record["would_trim"]) == ("retention", True, 0, 299)
    assert (record["would_trim_is_least"], record["stream_length"], record["held_by"]) == (False, 300, None)
    assert record["bound"] == kept.ids()[-1].decode()
    assert record["first_entry_age_s"] == pytest.approx(24 * 3600, abs=600)
    assert kept.length() == 300
    assert f"{scene.stream}: would trim 299 before" in inside(scene.environment, "retention", "--dry-run").out


def test_retention_names_the_group_that_holds(scene: Scene, kept: Kept) -> None:
    kept.group("audit")
    record = inside(scene.environment, "retention", "--json").record
    assert record["held_by"] == {"group": "audit", "at": "0-0", "lag": 300, "pending": 0}
    assert "held by group audit at 0-0 (0 pending, 300 unread)" in inside(scene.environment, "retention").out


def test_retention_wants_an_age(scene: Scene) -> None:
    ran = inside(scene.environment, "retention")
    assert ran.code == 2
    assert "RETAIN_SEC and DEAD_LETTER_RETAIN_SEC are off: say --after seconds" in ran.err
    scene.add_tweets(10)
    Kept(scene.raw, scene.stream).finish(scene.group)
    assert "9 trimmed" in inside(scene.environment, "retention", "--after", "3600").out


async def test_asked_to_stop_it_begins_no_slice(scene: Scene, kept: Kept, link: ServerLink) -> None:
    stop = Stop()
    seen = Wire(link)
    retention = Retention(link, scene.stream, Policy(HOUR_MS))
    await retention_script().load(link)
    seen.after = lambda command, reply: setattr(stop, "by", signal.SIGINT)
    retained = await retention.run(_UntilStopped(link, stop))
    assert (retained.trimmed, retained.complete) == (100, False)


def test_groups_ls_shows_how_far_each_group_has_come(scene: Scene, kept: Kept) -> None:
    kept.group("audit")
    kept.group("slow")
    ids = kept.read("slow", 100)
    by_name = {record["name"]: record for record in inside(scene.environment, "groups", "ls", "--json").records}
    assert {name: record["lag"] for name, record in by_name.items()} == {scene.group: 0, "audit": 300, "slow": 200}
    assert [by_name[name]["is_own"] for name in (scene.group, "audit")] == [True, False]
    slow = by_name["slow"]
    assert (slow["pending"], slow["consumers"], slow["last_delivered_id"]) == (100, 1, ids[-1].decode())
    assert slow["oldest_pending_age_s"] == pytest.approx(24 * 3600, abs=600)
    assert by_name["audit"]["last_delivered_age_s"] is None
    lines = inside(scene.environment, "groups", "ls").out.splitlines()
    assert [line.split()[0] for line in lines] == [scene.stream, "GROUP", "audit", "slow", scene.group]


def test_each_group_that_the_settings_name_is_own(scene: Scene, kept: Kept) -> None:
    kept.group("audit")
    kept.group("slow")
    items = [
        {"name": scene.stream, "group": group, "prefix": f"{scene.prefix}{group}:"} for group in (scene.group, "audit")
    ]
    environment = {name: value for name, value in scene.environment.items() if name != "STREAM_NAME"}
    ran = inside({**environment, "STREAMS": json.dumps(items)}, "groups", "ls", "--json")
    assert {one["name"]: one["is_own"] for one in ran.records} == {scene.group: True, "audit": True, "slow": False}


def test_groups_ls_marks_the_groups_that_hold_nothing(scene: Scene, kept: Kept) -> None:
    kept.group("tail-1")
    environment = {**scene.environment, "RETAIN_IGNORE_GROUPS": "*"}
    by_name = {record["name"]: record for record in inside(environment, "groups", "ls", "--json").records}
    assert {name: record["is_ignored"] for name, record in by_name.items()} == {scene.group: False, "tail-1": True}
    assert "tail-1 (ignored)" in inside(environment, "groups", "ls").out


def test_a_lag_that_redis_does_not_know_is_unknown(scene: Scene, kept: Kept) -> None:
    kept.group("audit")
    scene.raw.execute_command("XDEL", scene.stream, kept.ids()[5])  # in the midst of what audit is to read
    kept.read("audit", 2)
    lines = inside(scene.environment, "groups", "ls").out.splitlines()
    (audit,) = [line for line in lines if line.startswith("audit")]
    assert audit.split()[1] == "unknown"


def test_a_groups_name_does_nothing_to_a_terminal(scene: Scene, kept: Kept) -> None:
    scene.raw.execute_command("XGROUP", "CREATE", scene.stream, HOSTILE, "0")
    for command in (("groups", "ls"), ("retention", "--dry-run"), ("status",)):
        ran = on_terminal(scene.environment, *command)
        assert dangerous(without_styles(ran.out)) == set(), command


def test_status_shows_the_length_the_first_entrys_age_and_who_holds_it(scene: Scene, kept: Kept) -> None:
    kept.group("audit")
    record = inside(scene.environment, "status", "--json").record
    assert (record["stream_length"], record["retention"]) == (300, "held by group audit at 0-0 (0 pending, 300 unread)")
    assert record["first_entry_age_s"] == pytest.approx(24 * 3600, abs=600)
    out = inside(scene.environment, "status").out
    assert "300 entries, the first" in out
    assert "after 1 h 0 min: held by group audit" in out
    assert "retention      off" in inside({**scene.environment, "RETAIN_SEC": "off"}, "status").out


def test_doctor_says_what_is_thrown_away_and_what_holds_it(scene: Scene, kept: Kept) -> None:
    kept.group("audit")
    out = inside({**scene.environment, "DEAD_LETTER_RETAIN_SEC": "7200"}, "doctor").out
    assert f"{scene.stream}: entries that every group has finished with are trimmed once they are 1 h 0 min old" in out
    assert "now held by group audit at 0-0" in out
    assert f"{scene.stream}:dead: dead letters are thrown away for good once they are 2 h 0 min old" in out


@pytest.mark.parametrize("right", ["xtrim", "xinfo|groups"])
def test_doctor_names_a_right_that_retention_lacks(scene: Scene, kept: Kept, grant: Grant, right: str) -> None:
    login = grant("~*", "&*", "+@all", f"-{right}")
    code, problems = doctor(scene, **login)
    assert code == 1
    (problem,) = rights_in(problems)
    assert f"+{right}" in problem
    assert "RETAIN_SEC" in problem
    without: Problems = doctor(scene, **login, RETAIN_SEC="off")[1]
    assert rights_in(without) == []


def rights_in(problems: Problems) -> list[str]:
    return [text for check, texts in problems.items() if check == "right" for text in texts]


def test_whoever_may_not_ask_is_told_so(scene: Scene, kept: Kept, raw: redis.Redis, grant: Grant) -> None:
    login = grant("~*", "&*", "+@all", "-xinfo|groups")
    ran = inside({**scene.environment, **login}, "groups", "ls")
    assert (ran.code, "+xinfo|groups" in ran.err) == (1, True)
    assert inside({**scene.environment, **login}, "status").code == 0
