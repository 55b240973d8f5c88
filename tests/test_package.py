"""The package that `func azure functionapp publish` uploads: what .funcignore leaves, with requirements.txt installed in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pathspec
import pytest

from tests.conftest import Scene
from tests.installed import installed

pytestmark = pytest.mark.more

ROOT = Path(__file__).parent.parent

# The host puts this folder on the worker's path; a remote build fills it from requirements.txt.
SITE_PACKAGES = Path(".python_packages") / "lib" / "site-packages"

TICK = """
import asyncio, json, sys
sys.path.insert(0, %r)
import function_app
from azure.functions.timer import TimerRequest
result = asyncio.run(function_app.monitor(TimerRequest()))
files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
print(json.dumps({"result": result, "files": {name: file for name, file in files.items() if file}}))
"""


# What the tool leaves out whatever .funcignore says (its FileSystemHelpers.GetLocalFiles).
ALWAYS_LEFT_OUT = {".git", ".vscode", ".funcignore", ".gitignore", "local.settings.json", "project.lock.json"}


def ignored() -> pathspec.GitIgnoreSpec:
    """.funcignore, which has gitignore's syntax."""
    return pathspec.GitIgnoreSpec.from_lines((ROOT / ".funcignore").read_text().splitlines())


def uploaded() -> list[Path]:
    """The project's files that go out, relative to its folder."""
    return sorted(left_below(ROOT, ignored()))


def left_below(folder: Path, ignored: pathspec.GitIgnoreSpec) -> Iterator[Path]:
    for path in folder.iterdir():
        relative = path.relative_to(ROOT)
        name = f"{relative.as_posix()}/" if path.is_dir() else relative.as_posix()
        if path.name in ALWAYS_LEFT_OUT or ignored.match_file(name):
            continue
        if path.is_dir():
            yield from left_below(path, ignored)
        else:
            yield relative


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory, "requirements", "-r", str(ROOT / "requirements.txt"))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, dependencies: Path) -> Path:
    folder = tmp_path_factory.mktemp("package")
    for path in uploaded():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    shutil.copytree(dependencies, folder / SITE_PACKAGES)
    return folder


def tick_in(package: Path, **environment: str) -> dict[str, Any]:
    """One tick of the package's own timer in a process that knows of nothing else: no environment, no site-packages."""
    run = subprocess.run(
        [sys.executable, "-S", "-c", TICK % str(package / SITE_PACKAGES)],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def test_what_is_uploaded_is_what_one_tick_needs_and_no_more() -> None:
    top = {path.parts[0] for path in uploaded()}
    assert top == {"function_app.py", "host.json", "requirements.txt", "monitor", "shared"}


def test_lua_scripts_are_uploaded_and_caches_are_not() -> None:
    paths = uploaded()
    scripts = {path.relative_to(ROOT) for path in (ROOT / "monitor").glob("*.lua")}
    assert scripts
    assert scripts <= set(paths)
    assert {path.suffix for path in paths} == {".py", ".lua", ".json", ".txt"}


@pytest.mark.parametrize(
    "name",
    [
        "local.settings.json",
        ".venv/x.py",
        "monitor/__pycache__/sweep.cpython-311.pyc",
        "tests/conftest.py",
        "README.md",
    ],
)
def test_secrets_tests_and_tools_would_be_left_out_wherever_they_turn_up(name: str) -> None:
    assert ignored().match_file(name)


def test_timer_runs_from_the_package_alone(package: Path, scene: Scene, mode: str) -> None:
    scene.add_tweets(3)
    scene.add("user", "no id")
    scene.abandon()
    answer = tick_in(package, **scene.environment, SETTLE_MODE=mode, REAP_CONSUMERS_AFTER_SEC="1", ON_CONFLICT="newer")
    assert answer["result"] is None
    assert (scene.pending(), len(scene.hashes()), len(scene.dead_letters())) == (0, 3, 1)
    assert modules_from_elsewhere(package, answer["files"]) == {}


def modules_from_elsewhere(package: Path, files: dict[str, str]) -> dict[str, str]:
    """The loaded modules that lie neither in the package nor in the standard library."""
    standard_library = Path(json.__file__).resolve().parent.parent
    homes = [package.resolve(), standard_library]
    found = {}
    for name, file in files.items():
        path = Path(file).resolve()
        is_installed_beside = "site-packages" in path.parts and package.resolve() not in path.parents
        if is_installed_beside or not any(home in path.parents for home in homes):
            found[name] = file
    return found


def test_schedule_that_has_to_be_worked_out_needs_nothing_else_either(package: Path, scene: Scene) -> None:
    answer = tick_in(package, **scene.environment, MONITOR_SCHEDULE="0 */5 * * * *")
    assert modules_from_elsewhere(package, answer["files"]) == {}


def test_missing_dependency_would_show(package: Path, scene: Scene, tmp_path: Path) -> None:
    """Control: without one of the packages the same tick fails."""
    broken = tmp_path / "broken"
    shutil.copytree(package, broken)
    shutil.rmtree(broken / SITE_PACKAGES / "tenacity")
    run = subprocess.run(
        [sys.executable, "-S", "-c", TICK % str(broken / SITE_PACKAGES)],
        cwd=broken,
        env={**scene.environment, "REDIS_HOST": "127.0.0.1:1", "SWEEP_BUDGET_SEC": "0.5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'tenacity'" in run.stderr
