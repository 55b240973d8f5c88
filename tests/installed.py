"""Packages that a test installs into a folder of its own, once for a test run and all of its workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

LONGEST_INSTALL_S = 90.0


def installed(tmp_path_factory: pytest.TempPathFactory, name: str, *arguments: str) -> Path:
    """The folder into which ``pip install`` put what ``arguments`` name; the first worker that asks installs it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, claim = base / f"installed-{name}", base / f"installing-{name}"
    try:
        claim.mkdir()
    except FileExistsError:
        _wait_for(folder)
        return folder
    unfinished = claim / "site-packages"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    run = subprocess.run([*pip, "--target", str(unfinished), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"pip could not install {name} (it needs the package registry):\n{run.stderr}"
    unfinished.rename(folder)
    return folder


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + LONGEST_INSTALL_S
    while not folder.exists():
        assert time.monotonic() < deadline, f"{folder.name}: the worker that installs it did not come to an end"
        time.sleep(0.1)
