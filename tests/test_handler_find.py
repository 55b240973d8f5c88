"""HANDLER and HANDLER_PATH: what they name is found, and what cannot be used is refused by the setting's name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.handling.find import HandlerSpec, find, function_of, is_handler_name
from shared.errors import SettingsError

MODULE = """
import contextlib

async def asynchronous(entries): ...
def plain(entries): ...

class Callable:
    def __call__(self, entries): ...
    async def method(self, entries): ...

instance = Callable()

@contextlib.asynccontextmanager
async def managed():
    yield plain

class Managed:
    async def __aenter__(self): return plain
    async def __aexit__(self, *error): ...

ready = Managed()

async def bare_async_generator():
    yield plain

@contextlib.contextmanager
def plain_manager():
    yield plain

def generator(entries):
    yield

class NeedsMore(Managed):
    def __init__(self, url): ...

number = 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for HANDLER_PATH; its modules are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    (tmp_path / "handlers_here.py").write_text(MODULE)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(SettingsError) as refused:
        find(HandlerSpec(name, str(folder)))
    return str(refused.value)


@pytest.mark.parametrize("name", ["asynchronous", "plain", "instance", "instance.method"])
def test_what_can_be_called_with_entries_is_found(folder: Path, name: str) -> None:
    found = find(HandlerSpec(f"handlers_here:{name}", str(folder)))
    assert found.manager is None
    assert callable(found.function)


@pytest.mark.parametrize("name", ["managed", "Managed", "ready"])
def test_an_async_context_manager_is_found_and_not_yet_entered(folder: Path, name: str) -> None:
    found = find(HandlerSpec(f"handlers_here:{name}", str(folder)))
    assert found.function is None
    assert hasattr(type(found.manager), "__aenter__")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:handle", "no module 'no_such_module'; HANDLER_PATH names the folder"),
        ("handlers_here.sub:handle", "no module 'handlers_here.sub'"),
        ("handlers_here:missing", "has no 'missing'"),
        ("handlers_here:number", "is of type int; name a function"),
        ("handlers_here:Callable", "is a class; name a function"),
        ("handlers_here:generator", "use contextlib.asynccontextmanager"),
        ("handlers_here:plain_manager", "use contextlib.asynccontextmanager"),
        ("handlers_here:bare_async_generator", "decorate it with contextlib.asynccontextmanager"),
        ("handlers_here:NeedsMore", "called without arguments, raised TypeError"),
        ("handlers_here", "expected module:name"),
        ("rm -rf:handle", "expected module:name"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(folder: Path, name: str, words: str) -> None:
    assert refusal(name, folder).startswith("settings: HANDLER: ")
    assert words in refusal(name, folder)


def test_a_module_that_fails_is_told_by_class_and_place_and_never_by_its_text(folder: Path) -> None:
    (folder / "fails_here.py").write_text("# a comment\npassword = 'kanarie'\nraise ValueError(password)\n")
    told = refusal("fails_here:handle", folder)
    assert "importing the module 'fails_here' raised ValueError (fails_here.py, line 3)" in told
    assert "kanarie" not in told


@pytest.mark.parametrize("text", ["import sys; sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_module_that_exits_does_not_end_the_janitor(folder: Path, text: str) -> None:
    (folder / "exits_here.py").write_text(text)
    assert "importing the module 'exits_here' raised" in refusal("exits_here:handle", folder)


def test_a_package_that_the_module_needs_is_named(folder: Path) -> None:
    (folder / "needs_here.py").write_text("import no_such_package_of_anybody\n")
    assert "needs 'no_such_package_of_anybody', which is not installed" in refusal("needs_here:handle", folder)


def test_the_folder_is_looked_in_last_and_hides_nothing(folder: Path) -> None:
    for name in ("json.py", "monitor.py"):
        (folder / name).write_text("raise AssertionError('a file of the user hides a module')\n")
    find(HandlerSpec("handlers_here:plain", str(folder)))
    assert sys.path[-1] == str(folder)
    assert sys.path.count(str(folder)) == 1
    find(HandlerSpec("handlers_here:managed", str(folder)))
    assert sys.path.count(str(folder)) == 1


def test_a_folder_that_is_not_there_is_refused_by_its_setting(tmp_path: Path) -> None:
    assert refusal("handlers_here:plain", tmp_path / "missing") == "settings: HANDLER_PATH: there is no such folder"


def test_a_context_manager_has_to_give_something_to_call() -> None:
    assert function_of(print) is print
    with pytest.raises(SettingsError, match="gives NoneType; yield the function"):
        function_of(None)


def test_names_are_judged_without_importing_anything() -> None:
    good = ["a:b", "pkg.mod:name", "pkg.mod:Class.method", "webhook", "sql"]
    bad = ["", "a", "a:", ":b", "a b:c", "a:b:c", "1a:b", "a/b:c", "http"]
    assert [name for name in good + bad if is_handler_name(name)] == good


def test_a_spec_prints_no_secret() -> None:
    assert "kanarie" not in repr(HandlerSpec("webhook", "", (("HANDLER_SECRET", "kanarie"),)))


def test_what_the_shipped_handlers_need_is_installed_for_tests_as_for_users() -> None:
    root = Path(__file__).parent.parent
    lines = (root / "requirements-handlers.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted
    assert all(f'"{line}"' in (root / "pyproject.toml").read_text(encoding="utf-8") for line in wanted)
