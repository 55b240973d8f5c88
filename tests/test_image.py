"""The image, built from the Dockerfile and run: what is in it, what it may, and that it sweeps a real server."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests import image
from tests.cli import eventually
from tests.conftest import Scene
from tests.test_prometheus import free_port, pulled_from

pytestmark = [pytest.mark.more, pytest.mark.timeout(image.LONGEST_BUILD_S)]
LARGEST_BYTES = 120 * 1024 * 1024
"""What the Dockerfile may add to its base."""
MOST_MEMORY_MIB = 96
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> str:
    base = tmp_path_factory.getbasetemp()
    image.build(base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base)
    return image.IMAGE


def run(*arguments: str, environment: Mapping[str, str] | None = None, entrypoint: str = "") -> image.Done:
    """A container, confined as the manifests confine it, until it ends."""
    variables = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
    enter = ("--entrypoint", entrypoint) if entrypoint else ()
    return image.called(*image.RUN, "--rm", *image.CONFINED, *variables, *enter, image.IMAGE, *arguments)


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[str]:
    """`run`, as the image runs by default; its container's name."""
    name = f"stream-janitor-test-{os.getpid()}-{next(_numbers)}"
    variables = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    started = image.called(*image.RUN, "--detach", "--name", name, *image.CONFINED, *variables, image.IMAGE)
    assert started.code == 0, started.err
    try:
        yield name
    finally:
        image.called("podman", "rm", "--force", "--time", "0", name)


def shell(script: str) -> image.Done:
    return run("-c", script, entrypoint="/bin/sh")


def test_a_sweep_in_the_image_recovers_what_was_left_on_a_real_server(built: str, scene: Scene) -> None:
    scene.add_tweets(5)
    scene.abandon()
    swept = run("sweep", environment=scene.environment)
    assert (swept.code, scene.pending(), len(scene.hashes())) == (0, 0, 5), swept
    assert "5 processed" in swept.out


def test_control_a_server_that_is_not_there_is_no_success(built: str, scene: Scene) -> None:
    assert run("sweep", environment={**scene.environment, "REDIS_HOST": "127.0.0.1:1"}).code == 3


def test_it_runs_as_nobody_in_particular_with_no_capability_and_a_root_that_it_cannot_write(built: str) -> None:
    said = shell(
        "id -u; id -g; grep -E '^(Cap|NoNewPrivs)' /proc/self/status;"
        "touch /x /janitor/x /packages/x; touch /tmp/x && echo wrote"
    )
    assert said.out.splitlines()[:2] == ["10001", "10001"]
    assert set(re.findall(r"^Cap\w+:\s+(\S+)", said.out, re.MULTILINE)) == {"0" * 16}
    assert re.search(r"NoNewPrivs:\s+1", said.out)
    assert said.err.count("Read-only file system") == 3
    assert said.out.splitlines()[-1] == "wrote"


def test_its_files_belong_to_root_and_nothing_that_installs_is_left(built: str) -> None:
    said = shell("find /janitor /packages -not -user 0 | head; python -m pip --version; python -c 'import ensurepip'")
    assert "No module named pip" in said.err
    assert "No module named 'ensurepip'" in said.err
    assert not any(line.startswith("/") for line in said.out.splitlines())


def test_it_holds_no_tests_settings_or_history_and_no_functions_runtime(built: str) -> None:
    said = shell(
        "ls -A /janitor | grep -v stream_janitor; ls /packages/azure;"
        "find /janitor -name 'local.settings*' -o -name conftest.py | head"
    )
    assert said.out.split() == ["monitor", "shared", "core", "identity"]


def test_it_has_what_its_manifests_ask_for(built: str) -> None:
    modules = "opentelemetry.exporter.prometheus, opentelemetry.exporter.otlp.proto.http, redis_entraid, rich, hiredis"
    assert run("-c", f"import {modules}", entrypoint="python").code == 0


def test_the_health_check_passes_while_it_sweeps_and_fails_when_it_hangs_and_sigterm_ends_it_with_0(
    built: str, scene: Scene
) -> None:
    scene.add_tweets(3)
    scene.abandon()
    environment = {**scene.environment, "MONITOR_SCHEDULE": "* * * * * *", "SWEEP_BUDGET_SEC": "0.9"}
    with running(environment) as name:
        eventually(lambda: scene.pending() == 0, within_s=60)
        assert image.called("podman", "healthcheck", "run", name).code == 0
        ready = ("podman", "exec", name, "python", "-m", "monitor.heartbeat", "--ready", "/tmp/heartbeat")
        eventually(lambda: image.called(*ready).code == 0, within_s=60)
        assert _memory_mib(name) < MOST_MEMORY_MIB
        assert image.called("podman", "kill", "--signal", "STOP", name).code == 0
        eventually(lambda: image.called("podman", "healthcheck", "run", name).code == 1, within_s=60)
        image.called("podman", "kill", "--signal", "CONT", name)
        assert image.called("podman", "stop", "--time", "60", name).code == 0
        ended = image.called("podman", "wait", name)
        assert ended.out.strip() == "0", image.called("podman", "logs", name).err


def _memory_mib(name: str) -> float:
    """What the janitor has resident, by the kernel's own count."""
    status = image.called("podman", "exec", name, "cat", "/proc/1/status").out
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kib) / 1024


def test_metrics_are_pulled_from_the_image(built: str, scene: Scene) -> None:
    port = free_port()
    pulled = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}
    with running({**scene.environment, "MONITOR_SCHEDULE": "* * * * * *", "SWEEP_BUDGET_SEC": "0.9", **pulled}):
        eventually(lambda: "stream_janitor_last_success_time_seconds{" in pulled_from(port), within_s=60)


def test_what_it_adds_to_its_base_is_small(built: str) -> None:
    (base,) = re.findall(r"\d+", image.called("podman", "image", "inspect", image.BASE, "--format", "{{.Size}}").out)
    added = image.inspected()["Size"] - int(base)
    assert 20 * 1024 * 1024 < added < LARGEST_BYTES


def test_its_configuration_is_the_dockerfiles(built: str) -> None:
    found = image.inspected()
    config = found["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m", "monitor"]
    assert config["Cmd"] == ["run", "--heartbeat", "/tmp/heartbeat"]
    assert found["Healthcheck"]["Test"] == ["CMD", "python", "-m", "monitor.heartbeat", "/tmp/heartbeat"]
    assert not [name for name in config["Env"] if "PASSWORD" in name]
