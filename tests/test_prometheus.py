"""Metrics to pull: what /metrics says, who serves it, and that nothing grows or doubles while nobody asks."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from prometheus_client import CollectorRegistry

from shared import telemetry
from shared.prometheus import DEFAULT_PORT, Listener, open_listener
from shared.telemetry import INSTRUMENTS, STALE_AFTER_INTERVALS, Standing, SweepFacts
from tests.cli import eventually, piped, start
from tests.collector import Collector
from tests.conftest import Scene
from tests.prometheus_names import LABELS, prometheus_names
from tests.test_telemetry import tick

PROMTOOL = shutil.which("promtool")
PROMETHEUS = shutil.which("prometheus")
ROOT = Path(__file__).parent.parent
OUTCOMES = {"processed": 3, "dead_lettered": 1}


@dataclass(frozen=True)
class _Report:
    candidates: int = 4
    unsearchable: int = 0
    duration_s: float = 0.1
    complete: bool = True
    settle_mode: str = "none"
    trimmed: int = 0
    dead_letters_trimmed: int = 0


FACTS = SweepFacts(_Report(), OUTCOMES, {}, Standing(7, 12.5, 3, 1, 100, 0.0), None)


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener("localhost", 0)
    yield opened
    opened.close()


def get(listener: Listener, path: str = "/metrics", accept: str = "text/plain") -> str:
    host, port = listener.address
    request = urllib.request.Request(f"http://{host}:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.read().decode())


def families(text: str) -> list[str]:
    return re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


EVERY_SECOND = {"MONITOR_SCHEDULE": "* * * * * *", "SWEEP_BUDGET_SEC": "0.9"}


def _run_until(environment: Mapping[str, str], is_so: Callable[[], bool]) -> str:
    """`run` until it is so, then SIGTERM; what it wrote to standard error."""
    with running(environment) as end:
        eventually(is_so, within_s=60)
    return end.err


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[_End]:
    process, end = start(environment, "run"), _End()
    try:
        yield end
    finally:
        process.send_signal(signal.SIGTERM)
        end.err = process.communicate(timeout=60)[1]


class _End:
    err = ""


def _python(code: str, environment: Mapping[str, str]) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


# --- what is served -------------------------------------------------------------------------------------------------------


def test_every_instrument_is_served_under_the_readmes_name_with_our_labels_only(listener: Listener) -> None:
    instruments = telemetry._Instruments(MeterProvider([listener.reader]))
    instruments.record(FACTS, "orders", "billing", 60.0)
    text = get(listener)
    served = set(re.findall(r"^(stream_janitor_\w+)", text, re.MULTILINE))
    assert served == {name for instrument in INSTRUMENTS for name in prometheus_names(instrument)}
    labels = set(re.findall(r"[{,](\w+)=", "\n".join(line for line in text.splitlines() if line.startswith("stream_"))))
    assert labels == (LABELS | {"messaging_system", "le"}) - {"error_type"}
    assert 'stream_janitor_settled_total{messaging_consumer_group_name="billing"' in text


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there: apt-get install prometheus (Debian)")
def test_promtool_finds_nothing_to_complain_of(listener: Listener) -> None:
    telemetry._Instruments(MeterProvider([listener.reader])).record(FACTS, "orders", "billing", 60.0)
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"],
        input=get(listener),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_openmetrics_is_spoken_to_those_who_ask_for_it(listener: Listener) -> None:
    telemetry._Instruments(MeterProvider([listener.reader])).record(FACTS, "orders", "billing", 60.0)
    assert get(listener, accept="application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/", "/metricsx", "/metrics/", "/-/healthy"])
def test_nothing_but_metrics_is_served(listener: Listener, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(listener, path)
    with refused.value:
        assert refused.value.code == 404


def test_a_gauge_three_intervals_old_is_served_no_more_and_the_times_still_are(listener: Listener) -> None:
    now_s = 1000.0
    instruments = telemetry._Instruments(MeterProvider([listener.reader]), lambda: now_s, lambda: 5e8)
    instruments.record(FACTS, "orders", "billing", STALE_AFTER_INTERVALS * 20.0)
    assert "stream_janitor_pending{" in get(listener)
    now_s += STALE_AFTER_INTERVALS * 20.0
    text = get(listener)
    assert "stream_janitor_pending{" not in text
    assert re.search(r"^stream_janitor_last_sweep_time_seconds\{.*\} 5e\+08$", text, re.MULTILINE)


def test_the_last_success_stays_where_it_was_while_sweeps_fail(listener: Listener) -> None:
    now_s = iter((100.0, 200.0))
    instruments = telemetry._Instruments(MeterProvider([listener.reader]), unix_s=lambda: next(now_s))
    instruments.record(FACTS, "orders", "billing", 60.0)
    instruments.record(SweepFacts(_Report(), {}, {}, None, ValueError()), "orders", "billing", 60.0)
    text = get(listener)
    assert re.search(r"last_sweep_time_seconds\{.*\} 200", text)
    assert re.search(r"last_success_time_seconds\{.*\} 100", text)


def test_who_never_succeeded_has_no_last_success(listener: Listener) -> None:
    instruments = telemetry._Instruments(MeterProvider([listener.reader]))
    instruments.record(SweepFacts(_Report(), {}, {}, None, ValueError()), "orders", "billing", 60.0)
    assert "last_sweep_time_seconds{" in get(listener)
    assert "last_success_time_seconds{" not in get(listener)


# --- flushes and scrapes --------------------------------------------------------------------------------------------------


def _kept_after_flushes(reader: MetricReader, flushes: int) -> int:
    """How many collections the exporter holds on to, that nobody has scraped."""
    meters = MeterProvider([reader])
    telemetry._Instruments(meters).record(FACTS, "orders", "billing", 60.0)
    for _ in range(flushes):
        meters.force_flush()
    collector: Any = reader
    return len(collector._collector._metrics_datas)


def test_flushes_collect_nothing_so_memory_does_not_grow_and_families_come_once(listener: Listener) -> None:
    assert _kept_after_flushes(listener.reader, 50) == 0
    text = get(listener)
    assert len(families(text)) == len(set(families(text)))
    assert "stream_janitor_candidates_total" in families(text)


def test_the_exporters_own_reader_grows_with_each_flush_and_doubles_families() -> None:
    """The negative control."""
    registry = CollectorRegistry()
    assert _kept_after_flushes(PrometheusMetricReader(registry=registry), 50) == 50
    names = [metric.name for metric in registry.collect()]
    assert len(names) > len(set(names))


def test_scrapes_at_once_get_the_same_families_each(listener: Listener) -> None:
    telemetry._Instruments(MeterProvider([listener.reader])).record(FACTS, "orders", "billing", 60.0)
    wanted, seen = families(get(listener)), []

    def scrape() -> None:
        seen.extend(families(get(listener)) for _ in range(10))

    threads = [threading.Thread(target=scrape) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [wanted] * 60


# --- where it listens -----------------------------------------------------------------------------------------------------


def test_the_default_is_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr("shared.prometheus.Listener", lambda host, port: asked.append((host, port)))
    open_listener({})
    assert asked == [("localhost", DEFAULT_PORT)] == [("localhost", 9464)]


@pytest.mark.parametrize("written", ["http", "-1", "65536", "9464.0"])
def test_a_port_that_is_none_is_named_and_nothing_listens(written: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "monitor"):
        assert open_listener({"OTEL_EXPORTER_PROMETHEUS_PORT": written}) is None
    assert "OTEL_EXPORTER_PROMETHEUS_PORT is not a port" in caplog.text


def test_an_address_that_is_taken_costs_the_pull_and_neither_the_push_nor_a_sweep(scene: Scene) -> None:
    scene.add_tweets(1)
    scene.abandon()
    with Collector() as collector, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            **scene.environment,
            "OTEL_METRICS_EXPORTER": "otlp,prometheus",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(taken.getsockname()[1]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            **EVERY_SECOND,
        }
        err = _run_until(environment, lambda: bool(collector.metrics_requests))
    assert err.count("no metrics can be pulled: 127.0.0.1") == 1
    assert scene.pending() == 0


def test_without_the_package_one_warning_says_what_to_install(scene: Scene) -> None:
    environment = {**scene.environment, "OTEL_METRICS_EXPORTER": "prometheus"}
    code = (
        "import sys; sys.modules['opentelemetry.exporter.prometheus'] = None; sys.path.insert(0, '.')\n"
        "import logging; logging.basicConfig()\n"
        "from shared.telemetry import SILENT, of_process\n"
        "assert of_process(can_be_scraped=True) is of_process(can_be_scraped=True) is SILENT\n"
    )
    said = _python(code, environment)
    assert said.count("requirements-prometheus.txt") == 1


@pytest.mark.parametrize(
    ("exporter", "words"), [("prometheus", "is ignored here"), ("statsd", "expected otlp, prometheus")]
)
def test_on_functions_an_exporter_that_cannot_be_is_ignored_and_said_once(
    scene: Scene, exporter: str, words: str
) -> None:
    port = free_port()
    ticked = tick(
        scene.environment,
        ticks=2,
        OTEL_METRICS_EXPORTER=exporter,
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    assert ticked.stderr.count(words) == 1
    assert "shared.prometheus" not in ticked.modules


def test_a_single_sweep_does_not_listen_and_says_so(scene: Scene) -> None:
    environment = {**scene.environment, "OTEL_METRICS_EXPORTER": "prometheus"}
    ran = piped(environment, "sweep")
    assert (ran.code, ran.err.count("is ignored here")) == (0, 1)


# --- the process that is scraped ------------------------------------------------------------------------------------------


def pulled_from(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def test_run_is_scraped_while_it_sweeps_and_frees_the_port_when_it_ends(scene: Scene) -> None:
    scene.add_tweets(3)
    scene.abandon()
    port = free_port()
    environment = {
        **scene.environment,
        **EVERY_SECOND,
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
    }
    settled = re.compile(r'stream_janitor_settled_total\{.*outcome="processed"\} 3\.0')
    err = _run_until(environment, lambda: bool(settled.search(pulled_from(port))))
    assert "warning" not in err
    assert pulled_from(port) == ""


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Debian's Prometheus: start it on the port to scrape; its own port."""
    started: list[subprocess.Popen[bytes]] = []

    def start_prometheus(target: int) -> int:
        config = tmp_path / "prometheus.yml"
        jobs = [{"job_name": "janitor", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}]
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        port = free_port()
        command = [str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return port

    yield start_prometheus
    for process in started:
        process.terminate()
        process.wait(timeout=60)


def _asked(port: int, query: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}", timeout=30
        ) as response:
            return list(json.load(response)["data"]["result"])
    except OSError:
        return []


@pytest.mark.more
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not there: apt-get install prometheus (Debian)")
def test_a_real_prometheus_scrapes_every_metric_of_a_run(scene: Scene, prometheus: Callable[[int], int]) -> None:
    scene.add_tweets(3)
    scene.add("text", "no id")
    scene.abandon()
    target = free_port()
    environment = {
        **scene.environment,
        **EVERY_SECOND,
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(target),
    }
    ours = f'{{messaging_destination_name="{scene.stream}"}}'
    with running(environment):
        port = prometheus(target)
        for name in sorted(name for instrument in INSTRUMENTS for name in prometheus_names(instrument)):
            eventually(lambda name=name: bool(_asked(port, name + ours)), within_s=60)  # type: ignore[misc]
        (settled,) = _asked(port, 'stream_janitor_settled_total{stream_janitor_outcome="processed"}')
        assert settled["value"][1] == "3"
        assert settled["metric"]["job"] == "janitor"
        (age,) = _asked(port, "time() - max(stream_janitor_last_sweep_time_seconds)")
        assert -60 < float(age["value"][1]) < 300
