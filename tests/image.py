"""Builds the Dockerfile without a registry of images: on a stand-in for python:slim, made of Debian's own packages.

It differs from the real base in its Python (Debian's, in a virtual environment at /usr/local, so that there is a pip to remove)
and in its size. Packages come from wheels that this process's pip downloads, so the build needs no network of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BASE = "localhost/stream-janitor-test-base"
IMAGE = "localhost/stream-janitor-test"
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
REQUIREMENTS = ("cli", "telemetry", "prometheus", "entra")
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
LONGEST_BUILD_S = 1200
# What a sandbox without limits of its own refuses to have raised.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
RUN = ("podman", "run", "--runtime", "runc", "--network", "host", *LIMITS)
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
ON_BASE = ("--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def called(*command: str | Path, cwd: Path | None = None, timeout_s: float = 120) -> Done:
    run = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Done(run.returncode, run.stdout, run.stderr)


def _must(*command: str | Path, cwd: Path | None = None) -> str:
    done = called(*command, cwd=cwd, timeout_s=LONGEST_BUILD_S)
    assert done.code == 0, f"{' '.join(map(str, command[:3]))}: {done.out[-3000:]}\n{done.err[-3000:]}"
    return done.out


def preflight(folder: Path) -> None:
    """Skip, with the reason, where a container cannot be run at all; after it whatever fails is a failure."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install {' '.join(missing)} (Debian)")
    if os.getuid() != 0 or not SOURCES.exists():
        pytest.skip("the stand-in base is made by root, on a Debian that has debian.sources")
    _make_base(folder)
    run = called(*RUN, "--rm", BASE, "true")
    if run.code != 0:
        pytest.skip(f"podman runs no container here: {run.err.strip().splitlines()[-1:]}")


def _make_base(folder: Path) -> None:
    if called("podman", "image", "exists", BASE).code == 0:
        return
    archive = folder / "base.tar"
    in_venv = '--customize-hook=chroot "$1" python3 -m venv /usr/local'
    packages = "--include=python3-venv,ca-certificates"
    made = called(
        "mmdebstrap", "--variant=minbase", packages, in_venv, "bookworm", archive, SOURCES, timeout_s=LONGEST_BUILD_S
    )  # fmt: skip
    if made.code != 0:
        pytest.skip(f"mmdebstrap makes no base here: {made.err.strip().splitlines()[-1:]}")
    _must("podman", "import", *ON_BASE, archive, BASE)
    archive.unlink()


def build(folder: Path) -> None:
    """Build the Dockerfile as it stands; only one of several workers does, and the others wait for it."""
    with (folder / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / "image.built"
        if built.exists():
            return
        preflight(folder)
        _download(folder / "wheels")
        (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        # --format docker: in an OCI image the HEALTHCHECK would be lost.
        _must(
            "buildah", "bud", "--format", "docker", "--isolation", "chroot", "--network", "host",
            "--volume", f"{folder}/wheels:/wheels:ro", "--volume", f"{folder}/pip.conf:/etc/pip.conf:ro",
            "--build-arg", f"BASE={BASE}", "--tag", IMAGE, ".", cwd=ROOT,
        )  # fmt: skip
        built.touch()


def _download(wheels: Path) -> None:
    files = [f"-r{ROOT}/requirements-{name}.txt" for name in REQUIREMENTS]
    # Debian's Python is of an earlier patch level than ours may be, and redis-py then wants one package more.
    _must(sys.executable, "-m", "pip", "download", "--quiet", "--dest", wheels, *files, "async-timeout")


def inspected() -> dict[str, Any]:
    (found,) = json.loads(_must("podman", "image", "inspect", IMAGE))
    return dict(found)
