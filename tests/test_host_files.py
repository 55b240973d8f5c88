"""host.json, local.settings.example.json and .funcignore, held to the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shared.settings import DEFAULT_SCHEDULE, DEFAULT_SCHEDULE_INTERVAL_S, DEFAULTS, REQUIRED, Settings

ROOT = Path(__file__).parent.parent
OF_THE_PLATFORM = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage"}


@pytest.fixture
def host() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "host.json").read_text())
    return read


@pytest.fixture
def values() -> dict[str, str]:
    read: dict[str, str] = json.loads((ROOT / "local.settings.example.json").read_text())["Values"]
    return read


def test_host_json_is_of_version_2_with_an_extension_bundle_of_version_4(host: dict[str, Any]) -> None:
    assert host["version"] == "2.0"
    assert host["extensionBundle"] == {
        "id": "Microsoft.Azure.Functions.ExtensionBundle",
        "version": "[4.*, 5.0.0)",
    }


def test_host_ends_a_tick_that_hangs_but_never_one_within_its_budget(host: dict[str, Any]) -> None:
    hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
    timeout_s = 3600 * hours + 60 * minutes + seconds
    assert timeout_s >= DEFAULT_SCHEDULE_INTERVAL_S
    assert timeout_s >= 2 * float(str(DEFAULTS["SWEEP_BUDGET_SEC"]))
    assert timeout_s <= 600


def test_host_lets_the_reports_through_and_its_own_chatter_not(host: dict[str, Any]) -> None:
    levels = host["logging"]["logLevel"]
    assert levels["default"] == "Warning"
    assert levels["Function.monitor.User"] == "Information"


def test_host_samples_no_failed_invocation_away(host: dict[str, Any]) -> None:
    sampling = host["logging"]["applicationInsights"]["samplingSettings"]
    assert {"Request", "Exception"} <= set(sampling["excludedTypes"].split(";"))


def test_example_settings_are_good_as_they_are(values: dict[str, str]) -> None:
    settings = Settings.from_env(values)
    assert (settings.redis.host, settings.redis.port, settings.redis.tls) == ("127.0.0.1", 6379, False)
    (stream,) = settings.streams
    assert (stream.stream, stream.group) == ("tweets_stream", "redisearch_app_group")


def test_example_settings_name_every_required_variable_and_only_known_ones(values: dict[str, str]) -> None:
    required = {name for name, default in DEFAULTS.items() if default is REQUIRED}
    assert required <= set(values)
    assert set(values) <= set(DEFAULTS) | OF_THE_PLATFORM
    assert values["MONITOR_SCHEDULE"] == DEFAULT_SCHEDULE


def test_example_settings_start_with_func_start_and_azurite(values: dict[str, str]) -> None:
    assert values["FUNCTIONS_WORKER_RUNTIME"] == "python"
    assert values["AzureWebJobsStorage"] == "UseDevelopmentStorage=true"
    assert all(isinstance(value, str) for value in values.values())


def test_example_settings_hold_no_secret(values: dict[str, str]) -> None:
    assert values.get("REDIS_PASSWORD", "") == ""
    assert "AccountKey" not in json.dumps(values)


@pytest.mark.parametrize(
    "name", [".venv", "tests", "demo", "bench", "examples", "local.settings.example.json", "__pycache__"]
)
def test_funcignore_lists_itself_what_the_tool_does_not_know_of(name: str) -> None:
    lines = (ROOT / ".funcignore").read_text().split()
    assert name in {line.rstrip("/") for line in lines}


def test_every_folder_of_python_code_is_either_uploaded_or_ignored_by_name() -> None:
    lines = {line.rstrip("/") for line in (ROOT / ".funcignore").read_text().split()}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - lines == {"monitor", "shared", "stream_janitor"}


def test_requirements_give_a_reason_for_each_package() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines
    assert all(re.search(r" # \w{2,}", line) for line in lines), lines
