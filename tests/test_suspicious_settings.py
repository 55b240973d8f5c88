"""Misspelt and foreign variables are named, with what to do; what others put into an environment is not."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from shared import suspicious_settings as module
from shared.setting_rules import NOT_SUPPORTED
from shared.settings import DEFAULTS
from shared.suspicious_settings import suspicious_settings, warn_of_suspicious_settings
from tests.cli import inside
from tests.conftest import Scene
from tests.test_function_app import Bell
from tests.test_function_app import ring as ring

ROOT = Path(__file__).parent.parent
CANARY = "canary"


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_told", set())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("HASH_PREFX", "is HASH_PREFIX meant?"),
        ("HSAH_PREFIX", "is HASH_PREFIX meant?"),
        ("STREAM_NAMES", "is STREAM_NAME meant?"),
        ("STREAM_NAM", "is STREAM_NAME meant?"),
        ("MIN_IDLE_TIME", "is MIN_IDLE_TIME_SEC meant?"),
        ("MIN_IDLE_TIME_SECS", "is MIN_IDLE_TIME_SEC meant?"),
        ("ON_CONFLICTS", "is ON_CONFLICT meant?"),
        ("MAX_ATTEMPT", "is MAX_ATTEMPTS meant?"),
        ("ID_FIELD", "is ID_FIELDS meant?"),
        ("DEADLETTER_STREAM", "is DEAD_LETTER_STREAM meant?"),
        ("redis_host", "is REDIS_HOST meant?"),
        ("REDIS_HOSTS", "is REDIS_HOST meant?"),
        ("REDIS_PASSWD", "is REDIS_PASSWORD meant?"),
        ("REDIS_PASS", "set REDIS_PASSWORD instead"),
        ("REDIS_URL", "set REDIS_HOST, REDIS_PASSWORD, REDIS_USERNAME and REDIS_TLS instead"),
        ("REDIS_PORT", "name the port in REDIS_HOST, as host:port"),
        ("REDIS_SSL", "set REDIS_TLS instead"),
        ("INDEX_LANGUAGE", "see the table of settings, or remove it"),
        ("STREAM_MAXLEN", "see the table of settings, or remove it"),
    ],
)
def test_a_variable_that_looks_like_ours_is_named_with_what_to_do_and_without_its_value(name: str, advice: str) -> None:
    assert suspicious_settings({name: CANARY}) == [f"{name} is set, but no setting has this name: {advice}"]


def test_no_setting_of_ours_is_suspicious() -> None:
    assert suspicious_settings(dict.fromkeys([*DEFAULTS, *NOT_SUPPORTED], CANARY)) == []


@pytest.mark.parametrize("name", ["REDIS", "MY_INDEX", "REDIS_MASTER"])
def test_what_kubernetes_puts_beside_a_service_is_not(name: str) -> None:
    beside = {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": "6379",
        f"{name}_SERVICE_PORT_TCP_REDIS": "6379",
        f"{name}_PORT": "tcp://10.0.0.1:6379",
        f"{name}_PORT_6379_TCP": "tcp://10.0.0.1:6379",
        f"{name}_PORT_6379_TCP_PROTO": "tcp",
        f"{name}_PORT_6379_TCP_PORT": "6379",
        f"{name}_PORT_6379_TCP_ADDR": "10.0.0.1",
    }
    assert suspicious_settings(beside) == []


def test_a_port_of_ones_own_is_told_apart_from_kubernetes() -> None:
    """Control: the same name, and a number for a value."""
    assert len(suspicious_settings({"REDIS_PORT": "6379"})) == 1
    assert suspicious_settings({"REDIS_PORT": "tcp://10.0.0.1:6379"}) == []


def test_what_the_platform_and_others_set_is_not() -> None:
    others = (
        "FUNCTIONS_WORKER_RUNTIME", "FUNCTIONS_EXTENSION_VERSION", "AzureWebJobsStorage", "AzureWebJobs.monitor.Disabled",
        "APPLICATIONINSIGHTS_CONNECTION_STRING", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_SERVICE_NAME", "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY", "WEBSITE_HOSTNAME", "WEBSITE_SITE_NAME",
        "IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT", "PATH", "HOME",
        "HOSTNAME", "LANG", "LC_ALL", "TERM", "PWD", "SHLVL", "PYTHONPATH", "PYTHON_VERSION", "VIRTUAL_ENV", "GPG_KEY",
        "SSH_AUTH_SOCK", "XDG_SESSION_ID", "DBUS_SESSION_BUS_ADDRESS", "NO_COLOR", "PIP_INDEX_URL", "CONTAINER_NAME",
        "HTTP_PROXY", "NO_PROXY", "PAGER", "LESS_TERMCAP_mb", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "REDIS_\n[evil]",
    )  # fmt: skip
    assert suspicious_settings(dict.fromkeys(others, CANARY)) == []


def test_a_variable_that_is_set_to_nothing_is_not() -> None:
    assert suspicious_settings({"REDIS_URL": " ", "HASH_PREFX": ""}) == []


@pytest.mark.parametrize("path", sorted([*ROOT.glob("examples/*.json"), ROOT / "local.settings.example.json"]))
def test_the_examples_hold_nothing_suspicious(path: Path) -> None:
    assert suspicious_settings(json.loads(path.read_text(encoding="utf-8"))["Values"]) == []


def test_a_spelling_is_compared_only_where_one_is_near() -> None:
    code = (
        "import sys; from shared.suspicious_settings import suspicious_settings as look; "
        "look({'PATH': '/bin', 'REDIS_HOST': 'h', 'REDIS_URL': 'x', 'SOME_OTHER_THING': '1'}); print('difflib' in sys.modules); "
        "look({'HASH_PREFX': 'x'}); print('difflib' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


# --- where it is told -------------------------------------------------------------------------------------------------------


def test_each_warning_is_logged_once_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "monitor"):
        for environment in ({"HASH_PREFX": CANARY}, {"HASH_PREFX": "other"}, {"HASH_PREFX": "x", "REDIS_URL": CANARY}):
            warn_of_suspicious_settings(environment)
    names = [record.getMessage().split()[0] for record in caplog.records]
    assert names == ["HASH_PREFX", "REDIS_URL"]
    assert CANARY not in caplog.text


async def test_the_first_tick_warns_and_the_next_does_not(
    ring: Bell, scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HASH_PREFX", CANARY)
    await ring(scene.environment)
    await ring(scene.environment)
    assert [text for text in caplog.messages if "HASH_PREFX" in text] == [
        "HASH_PREFX is set, but no setting has this name: is HASH_PREFIX meant?"
    ]


async def test_the_first_tick_warns_also_where_the_settings_are_refused(
    ring: Bell, scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STREAM_NAM", scene.stream)
    with pytest.raises(Exception, match="STREAM_NAME is missing"):
        await ring({**scene.environment, "STREAM_NAME": ""})
    assert "is STREAM_NAME meant?" in caplog.text


def test_sweep_warns_of_what_its_settings_hold(scene: Scene) -> None:
    ran = inside({**scene.environment, "REDIS_URL": f"redis://:{CANARY}@h"}, "sweep")
    assert ran.code == 0
    assert ran.err.count("warning: REDIS_URL is set, but no setting has this name") == 1
    assert CANARY not in ran.err + ran.out
    assert "warning" not in inside(scene.environment, "sweep").err


def test_doctor_warns_and_it_is_no_problem(scene: Scene) -> None:
    plain = inside(scene.environment, "doctor", "--json")
    ran = inside({**scene.environment, "HASH_PREFX": CANARY}, "doctor", "--json")
    assert ran.code == plain.code
    warnings = [record for record in ran.records if record.get("warning")]
    assert [(record["check"], record["ok"]) for record in warnings] == [("settings", True)]
    assert warnings[0]["detail"] == "HASH_PREFX is set, but no setting has this name: is HASH_PREFIX meant?"
    assert not [record for record in plain.records if record.get("warning")]
    text = inside({**scene.environment, "HASH_PREFX": CANARY}, "doctor").out
    assert "\nwarning  settings     HASH_PREFX is set" in f"\n{text}"
    assert CANARY not in text


def test_doctor_warns_also_where_the_settings_are_refused(scene: Scene) -> None:
    ran = inside({**scene.environment, "STREAM_NAME": "", "STREAM_NAM": "x"}, "doctor", "--json")
    assert [record["detail"] for record in ran.records if record.get("warning")] == [
        "STREAM_NAM is set, but no setting has this name: is STREAM_NAME meant?"
    ]
