"""make azure-package: the function's package with extras in requirements.txt, which is all that the platform's build reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy import azure_package
from tests.conftest import Scene
from tests.installed import installed
from tests.test_package import ROOT, SITE_PACKAGES, tick_in, uploaded


def test_it_holds_what_func_uploads_and_only_requirements_differ(tmp_path: Path) -> None:
    folder = tmp_path / "azure"
    azure_package.write(["entra"], folder)
    held = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert held == uploaded()
    differing = [path for path in held if (folder / path).read_bytes() != (ROOT / path).read_bytes()]
    assert differing == [Path("requirements.txt")]


def test_without_extras_it_is_what_func_uploads() -> None:
    assert azure_package.requirements([]) == (ROOT / "requirements.txt").read_text()


def test_the_extras_lines_are_added_once_and_no_line_points_to_another_file() -> None:
    text = azure_package.requirements(["entra", "telemetry", "azure-monitor", "cli"])
    packages = azure_package._packages(text)
    assert {"redis-entraid", "opentelemetry-exporter-otlp-proto-http", "azure-monitor-opentelemetry", "click"} <= set(
        packages
    )
    assert len(packages) == len(set(packages))
    assert not [line for line in text.splitlines() if line.startswith("-")]


def test_an_extra_that_there_is_not_is_named_beside_those_that_there_are() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "deploy.azure_package", "entro"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "there is no extra 'entro'; there are: azure-monitor, cli, entra" in run.stderr
    assert "Traceback" not in run.stderr


def test_what_was_there_before_is_gone(tmp_path: Path) -> None:
    (tmp_path / "azure").mkdir()
    (tmp_path / "azure" / "local.settings.json").write_text("{}")
    azure_package.write([], tmp_path / "azure")
    assert not (tmp_path / "azure" / "local.settings.json").exists()


@pytest.mark.more
def test_the_timer_runs_from_it_with_the_extras_installed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, scene: Scene
) -> None:
    folder = tmp_path / "azure"
    azure_package.write(["entra"], folder)
    packages = installed(tmp_path_factory, "with-entra", "-r", str(folder / "requirements.txt"))
    (folder / SITE_PACKAGES).parent.mkdir(parents=True)
    (folder / SITE_PACKAGES).symlink_to(packages)
    scene.add_tweets(2)
    scene.abandon()
    answer = tick_in(folder, **scene.environment)
    assert scene.pending() == 0
    assert not [name for name in answer["files"] if name.startswith(("azure.identity", "msal", "redis_entraid"))]
