"""The bell: how the platform finds the function, what a tick raises, and what is kept between ticks."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import azure.functions as func
import pytest
from azure.functions.timer import TimerRequest

import function_app
from demo.redis import RedisServer
from shared.errors import SettingsError, TickFailed
from shared.settings import DEFAULTS, REQUIRED
from tests.conftest import Scene, raw_client
from tests.installed import installed

ROOT = Path(__file__).parent.parent

Bell = Callable[[Mapping[str, str]], Awaitable[None]]


@pytest.fixture
async def ring(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bell]:
    """Ring the bell once under these settings; the instance starts cold."""
    instance = function_app._Instance
    for name, value in {"janitor": None, "loop": None, "last_began_s": None, "last_took_s": 0.0}.items():
        monkeypatch.setattr(instance, name, value)

    async def ring_with(environment: Mapping[str, str]) -> None:
        for name in DEFAULTS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert await function_app.monitor(TimerRequest()) is None  # type: ignore[func-returns-value]

    yield ring_with
    if instance.janitor is not None:
        await instance.janitor.close()


def fresh_process(code: str, **environment: str) -> str:
    """What ``code`` prints in a process that has nothing but ``environment``."""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


# --- how the platform finds it ----------------------------------------------------------------------------------------------

LISTS_BINDINGS = """
import json, function_app
print(json.dumps({f.get_function_name(): json.loads(str(f))["bindings"] for f in function_app.app.get_functions()}))
"""


def test_import_succeeds_with_an_empty_environment_and_there_is_one_timer_function() -> None:
    ((name, (binding,)),) = json.loads(fresh_process(LISTS_BINDINGS)).items()
    assert name == "monitor"
    assert (binding["type"], binding["name"], binding["direction"]) == ("timerTrigger", "timer", "IN")
    assert binding["schedule"] == "*/20 * * * * *"


def test_schedule_comes_from_its_variable() -> None:
    ((_, (binding,)),) = json.loads(fresh_process(LISTS_BINDINGS, MONITOR_SCHEDULE="0 */5 * * * *")).items()
    assert binding["schedule"] == "0 */5 * * * *"


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_schedule_is_the_default(value: str) -> None:
    ((_, (binding,)),) = json.loads(fresh_process(LISTS_BINDINGS, MONITOR_SCHEDULE=value)).items()
    assert binding["schedule"] == "*/20 * * * * *"


def test_bad_settings_do_not_keep_it_from_loading() -> None:
    fresh_process("import function_app", REDIS_TLS="perhaps", PAGE_SIZE="many")


def test_annotations_are_plain_classes_so_that_every_python_worker_takes_them() -> None:
    """Also under 3.10, where a default of None makes a hint Optional, which the worker refuses."""
    function = function_app.monitor._function.get_user_function()
    hints = typing.get_type_hints(function)
    assert all(isinstance(hint, type) for hint in hints.values()), hints
    assert issubclass(hints["timer"], func.TimerRequest)
    parameters = inspect.signature(function).parameters
    assert set(parameters) <= {"timer", "context"}
    assert all(parameter.default is not None for parameter in parameters.values())
    assert inspect.iscoroutinefunction(function)


# --- in the platform's own worker -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def worker_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Azure's worker for Python 3.13 and later; its loader is that of the older ones, and it runs on every Python."""
    arguments = ("--no-deps", "--ignore-requires-python", "azure-functions-runtime==1.3.0")
    return installed(tmp_path_factory, "azure-functions-worker", *arguments)


def in_worker(worker_package: Path, folder: Path, ticks: int = 0, **environment: str) -> dict[str, typing.Any]:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "platform_worker.py"), str(folder), str(ticks)],
        env={"PYTHONPATH": str(worker_package), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, typing.Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def test_platform_worker_loads_it_and_two_timers_on_one_loop_recover_entries(
    worker_package: Path, scene: Scene
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    answer = in_worker(worker_package, ROOT, ticks=2, **scene.environment)
    assert answer["refused"] is None
    ((binding,),) = answer["functions"].values()
    assert list(answer["functions"]) == ["monitor"]
    assert (binding["type"], binding["schedule"]) == ("timerTrigger", "*/20 * * * * *")
    assert answer["ticks"] == [None, None]
    assert (scene.pending(), len(scene.hashes())) == (0, 3)


def test_platform_worker_reports_a_tick_with_bad_settings_as_failed(worker_package: Path) -> None:
    (failure,) = in_worker(worker_package, ROOT, ticks=1)["ticks"]
    assert failure.startswith("SettingsError: settings: REDIS_HOST is missing; ")


@pytest.mark.parametrize(
    ("signature", "refusal"),
    [
        ("timer: func.TimerRequest, context: func.Context | None = None", '"context" parameter is expected'),
        ("timer: func.TimerRequest, clock: int = 0", "declared in Python but not in the function definition"),
        ("timer: func.HttpRequest", "do not match the corresponding function parameter"),
    ],
)
def test_platform_worker_refuses_other_signatures(
    worker_package: Path, tmp_path: Path, signature: str, refusal: str
) -> None:
    """Control: the check that the function passes is one."""
    (tmp_path / "function_app.py").write_text(
        "import azure.functions as func\n"
        "app = func.FunctionApp()\n"
        "@app.timer_trigger(arg_name='timer', schedule='* * * * * *')\n"
        f"async def monitor({signature}) -> None: ...\n"
    )
    assert refusal in in_worker(worker_package, tmp_path)["refused"]


# --- what a tick raises -----------------------------------------------------------------------------------------------------


async def test_timer_alone_is_enough_and_nothing_is_returned(ring: Bell, scene: Scene) -> None:
    scene.add_tweets(2)
    scene.abandon()
    await ring(scene.environment)
    assert (scene.pending(), len(scene.hashes())) == (0, 2)


async def test_empty_settings_raise_one_message_that_names_every_missing_variable(ring: Bell) -> None:
    with pytest.raises(SettingsError) as raised:
        await ring({})
    required = {name for name, default in DEFAULTS.items() if default is REQUIRED}
    assert required
    assert {name for name in DEFAULTS if f"{name} is missing" in str(raised.value)} == required


async def test_bad_settings_raise_one_message_that_names_every_one_of_them(ring: Bell, scene: Scene) -> None:
    bad = {"REDIS_TLS": "perhaps", "PAGE_SIZE": "0", "ON_CONFLICT": "fight", "MIN_IDLE_TIME_SEC": "-1"}
    with pytest.raises(SettingsError) as raised:
        await ring({**scene.environment, **bad, "REDIS_DB": "1"})
    assert len(raised.value.problems) == 5
    assert all(name in str(raised.value) for name in [*bad, "REDIS_DB"])


async def test_settings_are_read_at_each_tick(ring: Bell, scene: Scene) -> None:
    await ring(scene.environment)
    with pytest.raises(SettingsError):
        await ring({})
    await ring(scene.environment)


async def test_bad_entries_are_no_reason_to_raise(ring: Bell, scene: Scene) -> None:
    scene.add("user", "no id")
    scene.add("id", "")
    scene.add("id", "9")
    scene.raw.execute_command("RPUSH", scene.prefix + "9", "a list")
    scene.abandon()
    await ring({**scene.environment, "DEAD_LETTER_STREAM": "off"})
    assert scene.pending() == 3
    await ring({**scene.environment, "MIN_IDLE_TIME_SEC": "0"})
    assert (scene.pending(), len(scene.dead_letters())) == (0, 3)


async def test_server_away_raises_after_the_report(
    ring: Bell, own_server: RedisServer, own_scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="monitor")
    own_server.kill()
    with pytest.raises(TickFailed, match="no connection to Redis"):
        await ring({**own_scene.environment, "SWEEP_BUDGET_SEC": "0.5"})
    assert "error: no connection to Redis" in caplog.text


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "out of memory"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "NOREPLICAS"),
        (("REPLICAOF", "127.0.0.1", "1"), "READONLY"),
        (("ACL", "SETUSER", "default", "-xpending"), r"\+xpending"),
    ],
)
async def test_server_that_refuses_raises_after_the_report(
    ring: Bell,
    own_scene: Scene,
    mode: str,
    caplog: pytest.LogCaptureFixture,
    command: tuple[str, ...],
    told: str,
) -> None:
    caplog.set_level(logging.INFO, logger="monitor")
    own_scene.add_tweets(1)
    own_scene.abandon()
    own_scene.raw.execute_command(*command)
    with pytest.raises(TickFailed, match=told):
        await ring({**own_scene.environment, "SWEEP_BUDGET_SEC": "0.5", "SETTLE_MODE": mode})
    assert "error: " in caplog.text


# --- what is kept between ticks ---------------------------------------------------------------------------------------------


def janitors_connections(own_server: RedisServer) -> set[str]:
    client = raw_client(own_server)
    listed = client.execute_command("CLIENT", "LIST").decode().splitlines()
    client.close()
    return {line.split()[0] for line in listed if "name=stream-janitor" in line}


async def test_one_client_serves_all_ticks(ring: Bell, own_server: RedisServer, own_scene: Scene) -> None:
    await ring(own_scene.environment)
    connections = janitors_connections(own_server)
    assert len(connections) == 1
    await ring(own_scene.environment)
    await ring(own_scene.environment)
    assert janitors_connections(own_server) == connections


async def test_other_settings_get_another_client_and_the_old_one_is_closed(
    ring: Bell, own_server: RedisServer, own_scene: Scene
) -> None:
    await ring(own_scene.environment)
    connections = janitors_connections(own_server)
    await ring({**own_scene.environment, "MIN_IDLE_TIME_SEC": "11"})
    assert len(janitors_connections(own_server)) == 1
    assert janitors_connections(own_server) != connections


def test_another_event_loop_gets_another_client(scene: Scene) -> None:
    scene.add_tweets(1)
    scene.abandon()
    rings = """
import asyncio, function_app
from azure.functions.timer import TimerRequest
for _ in range(3):
    asyncio.run(function_app.monitor(TimerRequest()))
print("fine")
"""
    assert fresh_process(rings, **scene.environment) == "fine\n"
    assert scene.pending() == 0


# --- lateness ---------------------------------------------------------------------------------------------------------------


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_ticks_on_time_warn_of_nothing(ring: Bell, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await ring(scene.environment)
    await ring(scene.environment)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(("after_s", "is_late"), [(20.0, False), (29.0, False), (31.0, True), (100.0, True)])
async def test_late_tick_says_so(
    ring: Bell, scene: Scene, caplog: pytest.LogCaptureFixture, after_s: float, is_late: bool
) -> None:
    await ring(scene.environment)
    assert function_app._Instance.last_began_s is not None
    function_app._Instance.last_began_s -= after_s
    await ring(scene.environment)
    assert [("late" in told) for told in warnings_in(caplog)] == [True] * is_late


@pytest.mark.parametrize(("took_s", "is_overrun"), [(19.9, False), (20.0, True)])
async def test_tick_after_an_overrun_says_so(
    ring: Bell, scene: Scene, caplog: pytest.LogCaptureFixture, took_s: float, is_overrun: bool
) -> None:
    await ring(scene.environment)
    function_app._Instance.last_took_s = took_s
    await ring(scene.environment)
    told = warnings_in(caplog)
    assert [("previous tick took 20.0 s" in text) for text in told] == [True] * is_overrun


async def test_past_due_timer_says_so(
    ring: Bell, scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ring(scene.environment)
    await function_app.monitor(TimerRequest(past_due=True))
    assert warnings_in(caplog) == ["this tick is past due"]


async def test_failed_tick_counts_its_time_too(ring: Bell, scene: Scene) -> None:
    with pytest.raises(TickFailed):
        await ring({**scene.environment, "REDIS_HOST": "127.0.0.1:1", "SWEEP_BUDGET_SEC": "0.3"})
    assert function_app._Instance.last_took_s > 0
