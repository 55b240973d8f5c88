"""The gate: every case is in one of its two halves, both are run, and nothing is skipped without a word."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
SUMMARY = "=== {} in 1.00s ==="


class Machine:
    """A copy of `.ci` and a PATH with programs of the test's own before the real ones."""

    def __init__(self, folder: Path) -> None:
        self.ci = folder / "clone" / ".ci"
        shutil.copytree(ROOT / ".ci", self.ci)
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.policy = folder / "policy-rc.d"

    def program(self, name: str, body: str) -> None:
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.programs}:{os.defpath}", "POLICY_RC_D": str(self.policy)}
        return subprocess.run(
            ["bash", str(self.ci / name)],
            env=environment,
            cwd=self.ci.parent,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.program("id", "echo 0")
    return machine


def without_packages(machine: Machine) -> None:
    """dpkg-query knows of none, and apt-get cannot reach anything."""
    machine.program("dpkg-query", "exit 1")
    machine.program("apt-get", "exit 100")


# --- .ci/run ----------------------------------------------------------------------------------------------------------------


@needs_bash
@pytest.mark.parametrize("failing", ["none", "test", "test-more"])
def test_both_halves_run_and_either_can_fail_the_gate(machine: Machine, failing: str) -> None:
    without_packages(machine)
    machine.program(
        "make",
        f'echo "SKIPPED tests/test_$1.py::test_it - no $1 here"; echo "{SUMMARY.format("3 passed, 1 skipped")}"\n'
        f'echo half "$1"; [ "$1" != {failing} ]',
    )
    ran = machine.run("run")
    assert ran.returncode == (failing != "none"), ran.stdout + ran.stderr
    assert re.findall("^half (.*)$", ran.stdout, re.M) == ["test", "test-more"]


@needs_bash
def test_the_gate_ends_with_every_skipped_test_its_reason_and_the_summaries(machine: Machine) -> None:
    without_packages(machine)
    lines = {
        "test": "SKIPPED tests/test_a.py::test_b - no search",
        "test-more": "SKIPPED tests/test_c.py::test_d - no database",
    }
    machine.program(
        "make",
        f'case "$1" in test) echo "{lines["test"]}";; *) echo "{lines["test-more"]}";; esac\n'
        f'echo "{SUMMARY.format("3 passed, 1 skipped")}"; echo much more',
    )
    end = machine.run("run").stdout.split("== skipped, and why\n")[1]
    assert end.splitlines() == [
        *lines.values(),
        "== the end of each run",
        *[SUMMARY.format("3 passed, 1 skipped")] * 2,
    ]


# --- .ci/debian-packages ----------------------------------------------------------------------------------------------------


@needs_bash
def test_packages_that_cannot_be_had_are_named_and_fail_nothing(machine: Machine) -> None:
    without_packages(machine)
    ran = machine.run("debian-packages")
    assert ran.returncode == 0
    assert "not installed: redis-server; the tests that want it are skipped" in ran.stdout
    assert not machine.policy.exists()


@needs_bash
def test_one_package_that_cannot_be_had_does_not_keep_the_others_away(machine: Machine) -> None:
    machine.program("dpkg-query", f'for name; do :; done; [ -e "{machine.programs}/got-$name" ] && printf installed')
    machine.program(
        "apt-get",
        'case "$*" in *install*prometheus*) exit 100;; esac\n'
        f'[ -e "{machine.policy}" ] || exit 100\n'
        f'for name; do :; done; [ "$1" != install ] || touch "{machine.programs}/got-$name"',
    )
    ran = machine.run("debian-packages")
    assert re.findall("^not installed: (.*);", ran.stdout, re.M) == ["prometheus"]
    assert (machine.programs / "got-redis-server").exists()


@needs_bash
def test_no_server_of_a_package_is_started(machine: Machine) -> None:
    """The policy is there while packages are installed, and gone afterwards; somebody else's stays."""
    machine.program("dpkg-query", "exit 1")
    machine.program(
        "apt-get", f'[ "$1" = update ] || sh "{machine.policy}"; echo $? >> "{machine.programs}/policy-said"'
    )
    machine.run("debian-packages")
    said = (machine.programs / "policy-said").read_text().split()
    assert said[0] == "0"
    assert set(said[1:]) == {"101"}
    assert not machine.policy.exists()
    machine.policy.write_text("#!/bin/sh\nexit 101\n")
    machine.run("debian-packages")
    assert machine.policy.exists()


# --- make -------------------------------------------------------------------------------------------------------------------


def test_every_case_is_in_one_half_of_the_gate() -> None:
    """And in one alone: the two recipes differ in nothing but the mark."""
    recipes = re.findall(
        r'^\t\$\(BIN\)/pytest .* -m ("not more"|more) \$\(ARGS\)$', (ROOT / "Makefile").read_text(), re.M
    )
    assert recipes == ['"not more"', "more"]
    both, core, more = (collected(*mark) for mark in ((), ("-m", "not more"), ("-m", "more")))
    assert core
    assert more
    assert core | more == both
    assert not core & more


def collected(*mark: str) -> set[str]:
    files = ("tests/test_memory.py", "tests/test_gather.py")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *mark, *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {line for line in listed.stdout.splitlines() if "::" in line}
