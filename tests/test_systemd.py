"""The systemd units, looked at by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import piped

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
MOST_EXPOSED = 20
"""Tenths of systemd's exposure level: 2.0 is "OK", a service without any of the lines has 9.6."""

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not there: apt-get install systemd")


def copied(folder: Path, changes: dict[str, str]) -> list[Path]:
    """The units, with this machine's Python and folders in place of those in /opt, which verify wants to be there."""
    changes = {"/opt/stream-janitor/.venv/bin/python": sys.executable, "/opt/stream-janitor": str(ROOT), **changes}
    for unit in UNITS:
        text = unit.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        (folder / unit.name).write_text(text)
    return [folder / unit.name for unit in UNITS]


def analyzed(*arguments: str | Path) -> str:
    """What systemd-analyze complains of."""
    command = [str(ANALYZE), *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return run.stderr + (f"exit {run.returncode}" if run.returncode else "")


@needs_systemd
def test_systemd_finds_nothing_to_complain_of(tmp_path: Path) -> None:
    assert analyzed("verify", "--man=no", *copied(tmp_path, {})) == ""


@needs_systemd
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("DynamicUser=", "DynamicUsr="), ("OnCalendar=minutely", "OnCalendar=minutly"), ("Type=exec", "Type=execute")],
)
def test_control_a_misspelt_line_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    assert analyzed("verify", "--man=no", *copied(tmp_path, {right: wrong})) != ""


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_little_exposed(unit: Path) -> None:
    assert analyzed("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit) == ""


@needs_systemd
def test_control_a_service_without_those_lines_is_exposed(tmp_path: Path) -> None:
    text = SERVICES[0].read_text()
    bare = tmp_path / "bare.service"
    bare.write_text(text[: text.index("DynamicUser")])
    assert "exit" in analyzed("security", "--offline=true", f"--threshold={MOST_EXPOSED}", bare)


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_services_call_commands_that_there_are_and_read_settings_from_one_file(unit: Path) -> None:
    text = unit.read_text()
    (command,) = re.findall(r"^ExecStart=\S+/python -m monitor (\w+)", text, re.MULTILINE)
    assert piped({}, command, "--help").code == 0
    assert re.findall(r"^EnvironmentFile=(.+)$", text, re.MULTILINE) == ["/etc/stream-janitor.env"]
    assert "PASSWORD" not in text


def test_a_sweep_ends_before_the_next_one_is_due() -> None:
    text = (ROOT / "deploy" / "systemd" / "stream-janitor-sweep.service").read_text()
    (budget_s,) = re.findall(r"--budget (\d+)", text)
    (limit_s,) = re.findall(r"TimeoutStartSec=(\d+)", text)
    assert int(budget_s) + 5 < int(limit_s) < 60
