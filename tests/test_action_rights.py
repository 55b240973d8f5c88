"""Least privilege for each action: its whole sweep under the lines of its page, and once with each right taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import acl
from tests.cli import inside
from tests.conftest import Scene, Sweeper
from tests.test_acl import Users, users

__all__ = ["users"]

PAGES = Path(__file__).parent.parent / "docs" / "actions"
LINES = {
    ("requeue", "script"): (acl.REQUEUE, acl.REQUEUED_TOO_OFTEN),
    ("requeue", "gather"): (acl.REQUEUE.replace(" +evalsha +script|load", ""), acl.REQUEUED_TOO_OFTEN),
    ("dead_letter", "gather"): (acl.DEAD_LETTER,),
    ("observe", "auto"): (acl.OBSERVE,),
}
BESIDE = {"+ping", "+client|setname"}
"""For connections that were idle, and for CLIENT LIST: no sweep notices."""


@pytest.fixture
def stuck(scene: Scene) -> Scene:
    scene.add_tweets(5)
    scene.add("id", "tired", "requeue_count", "5")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)
    return scene


def assert_nothing_lost(scene: Scene, ids: list[bytes]) -> None:
    """Each entry is pending, or there again, or a dead letter."""
    found = {row[0] for row in scene.pending_rows()}
    found |= {letter[1][5] for letter in scene.dead_letters()}  # type: ignore[index]
    for _, fields in scene.raw.execute_command("XRANGE", scene.stream, "-", "+"):
        found |= {value for name, value in zip(fields[::2], fields[1::2], strict=True) if name == b"original_entry_id"}
    assert set(ids) <= found


def settings_for(action: str, mode: str) -> dict[str, str]:
    return {"ACTION": action, "SETTLE_MODE": mode}


@pytest.mark.parametrize(("action", "mode"), LINES)
async def test_the_whole_action_runs_under_the_lines_of_its_page(
    stuck: Scene, sweep: Sweeper, users: Users, action: str, mode: str
) -> None:
    login = users.login(stuck, LINES[action, mode])
    report = await sweep(stuck.settings(**settings_for(action, mode), **login))
    assert report.error is None
    assert (report.requeued, report.dead_lettered, report.deleted) == {
        "requeue": (5, 1, 1), "dead_letter": (0, 6, 1), "observe": (0, 0, 0),
    }[action]  # fmt: skip
    assert report.settle_mode == ("none" if action == "observe" else mode)


def denied() -> list[tuple[str, str, str]]:
    rights = [
        (*which, right)
        for which, lines in LINES.items()
        for line in lines
        for right in acl.words(line)
        if right.startswith("+") and right not in BESIDE
    ]
    return sorted(set(rights))


@pytest.mark.parametrize(("action", "mode", "right"), denied())
async def test_a_missing_right_is_named_by_the_sweep_and_nothing_is_lost(
    stuck: Scene, sweep: Sweeper, users: Users, action: str, mode: str, right: str
) -> None:
    stuck.raw.execute_command("SCRIPT", "FLUSH")  # else +script|load is not asked for
    ids = [row[0] for row in stuck.pending_rows() if row[0] in _held(stuck)]
    login = users.login(stuck, LINES[action, mode], without=right)
    report = await sweep(stuck.settings(**settings_for(action, mode), **login))
    assert report.error is not None, report
    assert right.strip("+") in report.error.lower()
    assert_nothing_lost(stuck, ids)  # type: ignore[arg-type]


def _held(scene: Scene) -> set[bytes]:
    return {entry_id for entry_id, _ in scene.raw.execute_command("XRANGE", scene.stream, "-", "+")}


@pytest.mark.parametrize(("action", "mode", "right"), denied())
def test_doctor_names_the_missing_right(stuck: Scene, users: Users, action: str, mode: str, right: str) -> None:
    stuck.raw.execute_command("SCRIPT", "FLUSH")
    login = users.login(stuck, LINES[action, mode], without=right)
    ran = inside({**stuck.environment, **settings_for(action, mode), **login}, "doctor", "--json")
    missing = [one["right"] for one in ran.records if one["check"] == "right" and not one["ok"]]
    assert (ran.code, set(missing)) == (1, {right.strip("+")}), ran.out


@pytest.mark.parametrize(("action", "mode"), LINES)
def test_doctor_finds_nothing_missing_and_asks_for_no_index(stuck: Scene, users: Users, action: str, mode: str) -> None:
    login = users.login(stuck, LINES[action, mode])
    ran = inside({**stuck.environment, **settings_for(action, mode), **login}, "doctor", "--json")
    assert ran.code == 0, ran.out
    assert not [one for one in ran.records if one["check"] == "index" or one.get("right", "").startswith("ft.")]


@pytest.mark.parametrize("action", acl.ACTION_LINES)
def test_the_page_of_an_action_quotes_its_lines(action: str) -> None:
    page = (PAGES / f"{action}.md").read_text(encoding="utf-8")
    for line in acl.ACTION_LINES[action]:
        assert line in page


# --- doctor on the target of requeue --------------------------------------------------------------------------------------


def test_doctor_names_the_groups_that_read_the_stream_as_well(stuck: Scene) -> None:
    stuck.raw.execute_command("XGROUP", "CREATE", stuck.stream, "audit", "$")
    ran = inside({**stuck.environment, "ACTION": "requeue"}, "doctor")
    assert ran.code == 1
    assert "audit" in ran.out
    assert inside({**stuck.environment, "ACTION": "requeue", "REQUEUE_WITH_OTHER_GROUPS": "true"}, "doctor").code == 0


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        ([], "has no consumer group"),
        (["SET", "x"], "is a key of another type"),
        (["XGROUP", "CREATE"], None),
    ],
)
def test_doctor_looks_at_another_target(stuck: Scene, make: list[str], problem: str | None) -> None:
    target = f"{stuck.stream}:again"
    if make:
        rest = ["g", "0", "MKSTREAM"] if make[0] == "XGROUP" else make[1:]
        stuck.raw.execute_command(*(make if make[0] == "XGROUP" else make[:1]), target, *rest)
    ran = inside({**stuck.environment, "ACTION": "requeue", "REQUEUE_TO": target}, "doctor")
    assert (ran.code, problem is None or problem in ran.out) == (0 if problem is None else 1, True), ran.out


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("requeue", "adds it to {stream} and acknowledges it"),
        ("dead_letter", "moves it to {stream}:dead: abandoned"),
    ],
)
def test_show_and_a_dry_run_tell_what_the_next_sweep_does(stuck: Scene, action: str, told: str) -> None:
    environment = {**stuck.environment, "ACTION": action}
    first = stuck.pending_rows()[0][0]
    assert isinstance(first, bytes)
    shown = inside(environment, "show", first.decode())
    assert told.format(stream=stuck.stream) in shown.out
    assert ("requeues" in shown.out) == (action == "requeue")
    expected = inside(environment, "sweep", "--dry-run", "--json").record
    done = inside(environment, "sweep", "--json").record
    for record in (expected, done):
        for named in record["reasons"].values():
            named["entry_ids"].sort()  # batches overlap
    differing = {name for name in done if done[name] != expected[name]}
    assert differing <= {"dry_run", "duration_s", "settle_mode", "oldest_pending_age_s"}, (expected, done)


def test_status_tells_the_action(stuck: Scene) -> None:
    for action, told in (("requeue", f"requeue to {stuck.stream}"), ("dead_letter", "dead_letter: all that is")):
        ran = inside({**stuck.environment, "ACTION": action}, "status")
        assert told in ran.out
        assert inside({**stuck.environment, "ACTION": action}, "status", "--json").record["action"] == action
