"""ACTION=handle on the command line, in processes of their own: sweep, run, show, doctor, and the rights that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests import acl
from tests.cli import finished, piped, start
from tests.conftest import Scene
from tests.test_acl import Users

HANDLERS = """
import threading
from stream_janitor import Entry

def done(entries: list[Entry]) -> None:
    with open({folder!r} + "/seen", "a") as seen:
        seen.writelines(entry.entry_id + "\\n" for entry in entries)

def raises(entries):
    raise ValueError("kanarie")

def hangs(entries):
    threading.Event().wait()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handlers_on_disk.py").write_text(HANDLERS.format(folder=str(tmp_path)))
    return tmp_path


@pytest.fixture
def users(raw: redis.Redis) -> Iterator[Users]:
    users = Users(raw)
    yield users
    users.delete()


def environment(scene: Scene, folder: Path, name: str, **changes: str) -> dict[str, str]:
    ours = {
        "ACTION": "handle",
        "HANDLER": f"handlers_on_disk:{name}",
        "HANDLER_PATH": str(folder),
        "INDEX_SCHEMA": "off",
    }
    return {**scene.environment, **ours, **changes}


def abandoned(scene: Scene, count: int = 3) -> list[bytes]:
    scene.add_tweets(count)
    return scene.abandon()


def test_a_handler_in_a_folder_is_found_and_called(scene: Scene, folder: Path) -> None:
    ids = abandoned(scene)
    ran = piped(environment(scene, folder, "done"), "sweep", "--json")
    assert (ran.code, ran.record["handled"]) == (0, 3), ran.err
    assert sorted((folder / "seen").read_text().split()) == [one.decode() for one in ids]
    assert scene.pending() == 0


def test_a_dry_run_and_show_say_what_would_be_done_and_call_nothing(scene: Scene, folder: Path) -> None:
    (entry_id,) = abandoned(scene, 1)
    ran = piped(environment(scene, folder, "done"), "sweep", "--dry-run", "--json")
    assert (ran.code, ran.record["handled"], ran.record["dry_run"]) == (0, 1, True), ran.err
    shown = piped(environment(scene, folder, "done"), "show", entry_id.decode())
    assert "calls the handler with it" in shown.out, shown.out + shown.err
    assert not (folder / "seen").exists()


@pytest.mark.parametrize("debug", [True, False])
def test_a_traceback_is_shown_under_debug_only(scene: Scene, folder: Path, debug: bool) -> None:
    abandoned(scene, 1)
    ran = piped(environment(scene, folder, "raises"), "sweep", *(["--debug"] if debug else []))
    assert "failed: handler raised ValueError" in ran.out
    assert ("kanarie" in ran.err) == debug
    assert "kanarie" not in ran.out


def test_run_ends_with_1_when_every_call_hangs_so_that_a_supervisor_starts_it_again(scene: Scene, folder: Path) -> None:
    abandoned(scene, 2)
    hanging = environment(
        scene, folder, "hangs", HANDLER_CONCURRENCY="1", HANDLER_TIMEOUT_SEC="0.1", MONITOR_SCHEDULE="*/3 * * * * *"
    )
    ran = finished(start(hanging, "run"))
    assert ran.code == 1
    assert "every handler call hung in 3 sweeps in a row" in ran.err


def test_sigterm_is_not_held_up_by_a_handler_that_hangs(scene: Scene, folder: Path) -> None:
    abandoned(scene, 1)
    hanging = environment(scene, folder, "hangs", HANDLER_TIMEOUT_SEC="0.5", MONITOR_SCHEDULE="*/4 * * * * *")
    process = start(hanging, "run")
    while scene.pending_rows()[0][3] == 1:  # until it was called
        pass
    process.terminate()
    assert finished(process).code == 0


def test_doctor_finds_nothing_wrong_where_nothing_is(scene: Scene, folder: Path, users: Users) -> None:
    login = users.login(scene, [acl.HANDLE, acl.DEAD_LETTERS, "ACL SETUSER stream_janitor +xlen"])
    ran = piped(environment(scene, folder, "done", **login), "doctor")
    assert ran.code == 0, ran.out + ran.err
    assert "handlers_on_disk:done is found" in ran.out


def test_doctor_looks_at_replicas_and_retention_as_for_any_action(scene: Scene, folder: Path, users: Users) -> None:
    login = users.login(scene, [acl.HANDLE, acl.DEAD_LETTERS, "ACL SETUSER stream_janitor +xlen"])
    ran = piped(environment(scene, folder, "done", ACK_REPLICAS="1", RETAIN_SEC="3600", **login), "doctor")
    assert ran.code == 1
    assert "+wait" in ran.out
    assert "once they are 1 h 0 min old" in ran.out


def test_doctor_names_a_handler_that_is_not_there(scene: Scene, folder: Path) -> None:
    ran = piped(environment(scene, folder, "missing"), "doctor")
    assert ran.code == 1
    assert "HANDLER: the module 'handlers_on_disk' has no 'missing'" in ran.out


def test_the_line_is_all_that_it_needs(scene: Scene, folder: Path, users: Users) -> None:
    abandoned(scene)
    login = users.login(scene, [acl.HANDLE, acl.DEAD_LETTERS])
    ran = piped(environment(scene, folder, "done", **login), "sweep", "--json")
    assert (ran.code, ran.record["handled"], ran.record["error"]) == (0, 3, None), ran.err


@pytest.mark.parametrize("right", [word for word in acl.words(acl.HANDLE) if word.startswith("+x") or word == "+time"])
def test_each_right_that_is_missing_is_named_and_nothing_is_lost(
    scene: Scene, folder: Path, users: Users, right: str
) -> None:
    abandoned(scene, 2)
    login = users.login(scene, [acl.HANDLE, acl.DEAD_LETTERS], without=right)
    ran = piped(environment(scene, folder, "done", **login), "sweep", "--json")
    assert ran.code == 1, ran.out
    assert right in ran.record["error"]
    called = (folder / "seen").read_text().split() if (folder / "seen").exists() else []
    assert scene.pending() == 2 or right == "+xack"
    assert not called or right == "+xack"
    doctor = piped(environment(scene, folder, "done", **login), "doctor")
    assert doctor.code == 1
    assert right in doctor.out
