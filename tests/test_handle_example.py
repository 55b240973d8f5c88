"""examples/handlers: the handler of the docs, and a check that a wrong one fails."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import ROWS
from tests.cli import surroundings
from tests.conftest import Scene

ROOT = Path(__file__).parent.parent
BILLING = (ROOT / "examples" / "handlers" / "billing.py").read_text(encoding="utf-8")
WRONG = {
    "bills twice": BILLING.replace("source TEXT PRIMARY KEY", "source TEXT").replace("INSERT OR IGNORE", "INSERT"),
    "loses what it cannot read": BILLING.replace('return Dead("no field cents")', "return Done()"),
    "is done before it is written": BILLING.replace("return {entry", "database.rollback(); return {entry").replace(
        "return Done()", "database.rollback(); return Done()"
    ),
}


def test_the_docs_show_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "actions" / "handle.md").read_text(encoding="utf-8")
    assert BILLING.partition('"""\n\n')[2] in page


def holds(scene: Scene, folder: Path, source: str) -> bool:
    """Two orders and one without a price, left behind; the first comes twice, as its acknowledgement was lost."""
    (folder / "billing_of_a_test.py").write_text(source)
    first = scene.add("cents", "1250")
    scene.add("cents", "990")
    scene.add("total", "5")
    scene.abandon()
    settings = {
        **scene.environment,
        "ACTION": "handle", "HANDLER": "billing_of_a_test:handle", "HANDLER_PATH": str(folder), "HANDLER_BATCH": "100",
    }  # fmt: skip
    ran = sweeps(settings, folder)
    scene.raw.execute_command("XGROUP", "SETID", scene.stream, scene.group, "0")
    scene.raw.execute_command("XREADGROUP", "GROUP", scene.group, "crashed", "COUNT", 1, "STREAMS", scene.stream, ">")
    scene.age([first], 60_000)
    sweeps(settings, folder)
    with sqlite3.connect(folder / "bills.db") as database:
        bills = sorted(cents for (cents,) in database.execute("SELECT cents FROM bills"))
    database.close()
    return ran and bills == [990, 1250] and len(scene.dead_letters()) == 1


def sweeps(settings: dict[str, str], folder: Path) -> bool:
    """In the folder, so that its database lies there."""
    environment = surroundings({**settings, "PYTHONPATH": str(ROOT)})
    run = subprocess.run(
        [sys.executable, "-m", "monitor", "sweep"], cwd=folder, env=environment, capture_output=True, check=False
    )
    return run.returncode == 0


def test_each_order_is_billed_once_and_what_cannot_be_is_kept(scene: Scene, tmp_path: Path) -> None:
    assert holds(scene, tmp_path, BILLING)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_handler_is_caught(scene: Scene, tmp_path: Path, wrong: str) -> None:
    assert WRONG[wrong] != BILLING
    assert not holds(scene, tmp_path, WRONG[wrong])


def test_the_page_names_every_setting_of_handlers() -> None:
    page = (ROOT / "docs" / "actions" / "handle.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in ROWS if name.startswith(("HANDLER", "SQL_")))
