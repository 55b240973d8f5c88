"""What is told of sweeps, read back from a real OTLP collector that the real timer function sent it to."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import function_app
from monitor.outcomes import Outcome
from monitor.trace_fields import split_from_trace
from shared import telemetry
from shared.telemetry import MOST_LINKS, STALE_AFTER_INTERVALS, Standing, SweepFacts
from tests.collector import Collector, attributes_of
from tests.conftest import Scene, Sweeper
from tests.patience import in_time

ROOT = Path(__file__).parent.parent
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
INTERNAL, CLIENT, CONSUMER, ERROR = 1, 3, 5, 2

TICK = """
import asyncio, json, logging, sys, threading, time
logging.basicConfig(level=logging.WARNING)
import function_app
from azure.functions.timer import TimerRequest

class Traced:
    invocation_id = "invocation-1"
    class trace_context:
        trace_parent = sys.argv[2]
        trace_state = "vendor=1"

async def main():
    took_s = []
    for _ in range(int(sys.argv[1])):
        began_s = time.monotonic()
        arguments = [Traced()] if sys.argv[2] else []
        await function_app.monitor(TimerRequest(past_due=False), *arguments)
        took_s.append(time.monotonic() - began_s)
    return took_s

took_s = asyncio.run(main())
if sys.argv[3] == "wait":
    for thread in threading.enumerate():
        if thread.name == "telemetry-flush":
            thread.join()
print(json.dumps({"took_s": took_s, "modules": sorted(sys.modules)}))
"""


@dataclass(frozen=True)
class Ticked:
    """A fresh process in which the timer ran: how long each tick took, what it had imported, what it said."""

    took_s: list[float]
    modules: set[str]
    stderr: str
    lived_s: float


def tick(
    environment: dict[str, str], ticks: int = 1, parent: str = "", wait: bool = True, before: str = "", **more: str
) -> Ticked:
    """Run the real timer function in a process of its own; ``before`` is run there first."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    began_s = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + TICK, str(ticks), parent, "wait" if wait else "leave"],
        env={**own, **environment, **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lived_s = time.monotonic() - began_s
    answer = json.loads(process.stdout.splitlines()[-1])
    return Ticked(answer["took_s"], set(answer["modules"]), process.stderr, lived_s)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def traceparent(number: int) -> str:
    return f"00-{number + 1:032x}-{number + 1:016x}-01"


def add_traced(scene: Scene, count: int, first: int = 0) -> list[bytes]:
    return [
        scene.add("id", number, "traceparent", traceparent(number), "text", "hi", "tracestate", "v=1")
        for number in range(first, first + count)
    ]


# --- the spans ------------------------------------------------------------------------------------------------------------


def test_the_timers_spans_hang_together_and_link_to_the_entries_traces(
    scene: Scene, collector: Collector, mode: str
) -> None:
    add_traced(scene, 3)
    scene.add("id", "9", "text", "no trace")
    scene.abandon()
    tick({**scene.environment, "SETTLE_MODE": mode}, parent=PARENT, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    (sweep,) = collector.named("sweep")
    assert (sweep.name, sweep.kind) == (f"sweep {scene.stream}", INTERNAL)
    assert (sweep.trace_id.hex(), sweep.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    batches = {span.span_id: span for span in collector.named("process")}
    assert {(span.name, span.kind) for span in batches.values()} == {(f"process {scene.stream}", CONSUMER)}
    assert {span.parent_span_id for span in batches.values()} == {sweep.span_id}
    links = [link for span in batches.values() for link in span.links]
    assert sorted(link.trace_id.hex() for link in links) == [f"{number + 1:032x}" for number in range(3)]
    clients = {
        attributes_of(span.attributes)["messaging.operation.type"] for span in collector.spans if span.kind == CLIENT
    }
    assert clients == ({"settle"} if mode == "script" else {"receive", "settle"})
    assert all(span.parent_span_id in batches for span in collector.spans if span.kind == CLIENT)


def test_spans_carry_the_conventions_attributes(scene: Scene, collector: Collector, mode: str) -> None:
    add_traced(scene, 2)
    scene.abandon()
    tick(
        {**scene.environment, "SETTLE_MODE": mode},
        ticks=2,
        parent=PARENT,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )
    for span in collector.spans:
        attributes = attributes_of(span.attributes)
        assert attributes["messaging.system"] == "redis"
        assert attributes["messaging.destination.name"] == scene.stream
        assert attributes["messaging.consumer.group.name"] == scene.group
    first, second = (attributes_of(span.attributes) for span in collector.named("sweep"))
    assert (first["faas.trigger"], first["faas.coldstart"], first["faas.invocation_id"]) == (
        "timer",
        True,
        "invocation-1",
    )
    assert second["faas.coldstart"] is False
    batches = [attributes_of(span.attributes) for span in collector.named("process")]
    assert {attributes["messaging.operation.type"] for attributes in batches} == {"process"}
    assert sum(attributes["messaging.batch.message_count"] for attributes in batches) == 2


def test_a_link_carries_the_trace_state() -> None:
    """Read from the span itself: the SDK's OTLP encoder leaves a link's trace state out (1.45)."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    group = telemetry._Telling(tracers, MeterProvider(), is_ours=False).of_group("stream", "group", 20.0)
    with group.batch(1) as span:
        span.took(1, [(traceparent(1).encode(), b"v=1")])
    (link,) = exporter.get_finished_spans()[0].links
    assert link.context.trace_state.to_header() == "v=1"


def test_links_beyond_a_hundred_are_counted(scene: Scene, collector: Collector, mode: str) -> None:
    count = MOST_LINKS + 20
    add_traced(scene, count)
    scene.abandon()
    tick(
        {**scene.environment, "SETTLE_MODE": mode, "CONCURRENCY": "1"},
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )
    batches = collector.named("process")
    left_out = sum(attributes_of(span.attributes).get("stream_janitor.links_left_out", 0) for span in batches)
    assert all(len(span.links) <= MOST_LINKS for span in batches)
    assert sum(len(span.links) for span in batches) + left_out == count
    assert scene.pending() == 0


@pytest.mark.parametrize(
    "hostile", [b"", b"\xff\x00", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"x" * 100_000, b"00-zz-zz-01"]
)
def test_a_traceparent_that_is_none_is_no_link_and_no_harm(
    scene: Scene, collector: Collector, mode: str, hostile: bytes
) -> None:
    scene.add("id", "1", "traceparent", hostile, "tracestate", b"\xff" * 600)
    scene.add("id", "2", "traceparent", traceparent(1), "tracestate", "=;=" * 300)
    scene.abandon()
    tick({**scene.environment, "SETTLE_MODE": mode}, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    links = [link for span in collector.named("process") for link in span.links]
    assert [link.trace_id.hex() for link in links] == [f"{2:032x}"]
    assert scene.pending() == 0


def test_a_refusal_is_marked_on_the_spans_without_redis_own_words(scene: Scene, collector: Collector) -> None:
    """Redis quotes arguments in its errors."""
    scene.raw.execute_command(
        "ACL", "SETUSER", "untold", "on", ">secret", "~*", "+@all", "-evalsha", "-hset"
    )  # fmt: skip
    scene.add("id", "1", "text", "private")
    scene.abandon()
    failing = "import function_app as f\nf.raise_for = lambda reports: None\n"
    try:
        tick(
            {**scene.environment, "REDIS_USERNAME": "untold", "REDIS_PASSWORD": "secret"},
            before=failing,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
    finally:
        scene.raw.execute_command("ACL", "DELUSER", "untold")
    (sweep,) = collector.named("sweep")
    assert sweep.status.code == ERROR
    assert attributes_of(sweep.attributes)["error.type"] == "RedisRefused"
    assert b"private" not in collector.bodies["/v1/traces"]
    (duration,) = collector.metrics()["stream_janitor.sweep.duration"].points
    assert duration.attributes["error.type"] == "RedisRefused"


# --- the metrics ----------------------------------------------------------------------------------------------------------


def test_the_metrics_of_a_sweep_arrive_under_their_names_and_units(
    scene: Scene, collector: Collector, mode: str
) -> None:
    scene.add_tweets(5)
    scene.add("text", "no id")
    scene.abandon()
    scene.add_tweets(3, first=100)
    tick({**scene.environment, "SETTLE_MODE": mode}, ticks=2, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    metrics = collector.metrics()
    assert {name: (metric.unit, metric.description) for name, metric in metrics.items()} == {
        instrument.name: (instrument.unit, instrument.description) for instrument in telemetry.INSTRUMENTS
    }
    assert all(metric.description.startswith("How many ") for metric in metrics.values())
    single = {name: metric.points[0].value for name, metric in metrics.items() if len(metric.points) == 1}
    assert single["stream_janitor.pending"] == 0
    assert single["stream_janitor.lag"] == 3
    assert single["stream_janitor.dead_letters"] == 1
    assert single["stream_janitor.candidates"] == 6
    assert single["stream_janitor.sweep.duration"][0] == 2
    for metric in metrics.values():
        for point in metric.points:
            assert point.attributes["messaging.destination.name"] == scene.stream
            assert point.attributes["messaging.consumer.group.name"] == scene.group


def test_candidates_are_the_sum_of_the_outcomes_in_the_metrics_too(
    scene: Scene, collector: Collector, mode: str
) -> None:
    scene.add_tweets(3)
    scene.add("text", "no id")
    gone = scene.add("id", "gone")
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)
    tick({**scene.environment, "SETTLE_MODE": mode}, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    metrics = collector.metrics()
    settled = {
        point.attributes["stream_janitor.outcome"]: point.value for point in metrics["stream_janitor.settled"].points
    }
    assert set(settled) == {outcome.value for outcome in Outcome}
    assert (settled["processed"], settled["dead_lettered"], settled["deleted"]) == (3, 1, 1)
    (candidates,) = metrics["stream_janitor.candidates"].points
    assert candidates.value == sum(settled.values()) == 5


def test_the_oldest_pending_entry_tells_its_age(scene: Scene, collector: Collector) -> None:
    scene.add_tweets(1)
    scene.deliver()
    tick(scene.environment, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    metrics = collector.metrics()
    assert metrics["stream_janitor.pending"].points[0].value == 1
    assert 24 * 3600 - 600 < metrics["stream_janitor.oldest_pending.age"].points[0].value < 24 * 3600 + 600


def test_neither_ids_nor_keys_nor_fields_stand_on_metrics(scene: Scene, collector: Collector, mode: str) -> None:
    (entry_id,) = [scene.add("id", "secret-key", "secret-field", "secret-value", "traceparent", traceparent(1))]
    bad = scene.add("secret-field", "no id")
    scene.abandon()
    tick({**scene.environment, "SETTLE_MODE": mode}, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    for private in (entry_id, bad, b"secret-key", b"secret-field", b"secret-value", scene.prefix.encode()):
        assert private not in collector.bodies["/v1/metrics"]
    for private in (b"secret-key", b"secret-field", b"secret-value"):
        assert private not in collector.bodies["/v1/traces"]
    assert bad in collector.bodies["/v1/traces"]


def test_a_sweep_that_could_not_open_tells_no_gauges(scene: Scene, collector: Collector) -> None:
    failing = "import function_app as f\nf.raise_for = lambda reports: None\n"
    environment = {**scene.environment, "STREAM_CONSUMER_GROUP_NAME": "nobody"}
    tick(environment, before=failing, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    metrics = collector.metrics()
    assert "stream_janitor.pending" not in metrics
    assert metrics["stream_janitor.sweep.duration"].points[0].value[0] == 1


def test_a_user_without_the_rights_to_ask_misses_only_those_two_gauges(scene: Scene, collector: Collector) -> None:
    scene.raw.execute_command("ACL", "SETUSER", "minimal", "on", ">secret", "~*", "+@all", "-xinfo", "-xlen")
    scene.add_tweets(1)
    scene.abandon()
    try:
        tick(
            {**scene.environment, "REDIS_USERNAME": "minimal", "REDIS_PASSWORD": "secret"},
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
    finally:
        scene.raw.execute_command("ACL", "DELUSER", "minimal")
    assert {"stream_janitor.lag", "stream_janitor.dead_letters"}.isdisjoint(collector.metrics())
    assert collector.metrics()["stream_janitor.candidates"].points[0].value == 1


@dataclass(frozen=True)
class _Report:
    candidates: int = 0
    unsearchable: int = 0
    duration_s: float = 0.1
    complete: bool = True
    settle_mode: str = "none"
    trimmed: int = 0
    dead_letters_trimmed: int = 0


@pytest.mark.parametrize(("after_s", "is_told"), [(-1, True), (0, False), (1, False)])
def test_a_reading_three_intervals_old_is_told_no_more(after_s: float, is_told: bool) -> None:
    now_s = 1000.0
    reader = InMemoryMetricReader()
    instruments = telemetry._Instruments(MeterProvider([reader]), lambda: now_s, lambda: 5e8)
    stale_after_s = STALE_AFTER_INTERVALS * 20.0
    facts = SweepFacts(_Report(), {}, {}, Standing(7, 12.5, 3, 1), None)
    instruments.record(facts, "stream", "group", stale_after_s)
    now_s += stale_after_s + after_s
    told = _gauges(reader)
    wanted = (
        {"pending": 7, "oldest_pending.age": 12.5, "lag": 3, "dead_letters": 1, "server_clock.behind": 0}
        if is_told
        else {}
    )
    wanted |= {"last_sweep.time": 5e8, "last_success.time": 5e8}  # these never drop
    assert told == {f"stream_janitor.{name}": value for name, value in wanted.items()}


def _gauges(reader: InMemoryMetricReader) -> dict[str, float]:
    data: Any = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    gauges = {instrument.name for instrument in telemetry.INSTRUMENTS if instrument.kind == "gauge"}
    return {metric.name: metric.data.data_points[0].value for metric in metrics if metric.name in gauges}


# --- the resource ---------------------------------------------------------------------------------------------------------


def test_the_resource_says_which_function_this_is(scene: Scene, collector: Collector) -> None:
    tick(scene.environment, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    for resource in collector.resources:
        assert (resource["service.name"], resource["faas.name"]) == ("stream-janitor", "monitor")
        assert resource["faas.instance"]
        assert resource["service.instance.id"]
    assert len({resource["service.instance.id"] for resource in collector.resources}) == 1


def test_on_azure_the_resource_names_app_instance_and_region(scene: Scene, collector: Collector) -> None:
    tick(
        scene.environment,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        WEBSITE_SITE_NAME="my-app",
        WEBSITE_INSTANCE_ID="abc",
        WEBSITE_MEMORY_LIMIT_MB="2048",
        REGION_NAME="westeurope",
    )
    wanted = {
        "service.name": "my-app",
        "faas.name": "my-app/monitor",
        "faas.instance": "abc",
        "faas.max_memory": 2048 * 1024 * 1024,
        "cloud.provider": "azure",
        "cloud.platform": "azure.functions",
        "cloud.region": "westeurope",
        "deployment.environment.name": "test",
    }
    assert collector.resources
    for resource in collector.resources:
        assert wanted.items() <= resource.items()


def test_otel_service_name_goes_before_azures(scene: Scene, collector: Collector) -> None:
    tick(
        scene.environment,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_SERVICE_NAME="mine",
        WEBSITE_SITE_NAME="my-app",
    )
    assert {resource["service.name"] for resource in collector.resources} == {"mine"}


# --- what it costs --------------------------------------------------------------------------------------------------------


OF_TELEMETRY = ("opentelemetry", "google.protobuf", "requests")


def test_with_nothing_configured_nothing_is_imported_but_what_redis_py_imports_itself(scene: Scene) -> None:
    """redis-py 8 imports opentelemetry.sdk.metrics where it is installed, for metrics of its own."""
    answer = subprocess.run(
        [sys.executable, "-c", "import redis.asyncio, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    scene.add_tweets(2)
    scene.abandon()
    ticked = tick(scene.environment)
    assert {name for name in ticked.modules if name.startswith(OF_TELEMETRY)} <= set(answer.stdout.split())
    assert "opentelemetry.sdk.trace" not in ticked.modules
    assert not {name for name in ticked.modules if name.startswith("opentelemetry.exporter")}
    assert scene.pending() == 0


def test_with_nothing_configured_opentelemetry_need_not_be_installed(scene: Scene) -> None:
    scene.add_tweets(2)
    scene.abandon()
    ticked = tick(scene.environment, before="import sys\nsys.modules['opentelemetry'] = None\n")
    assert not {name for name in ticked.modules if name.startswith(("opentelemetry.", *OF_TELEMETRY[1:]))}
    assert scene.pending() == 0


def test_with_nothing_configured_redis_is_asked_nothing_more(scene: Scene, collector: Collector) -> None:
    def calls() -> int:
        stats = scene.raw.execute_command("INFO", "commandstats").decode()
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in stats.splitlines() if "cmdstat_xinfo" in line)

    before = calls()
    tick(scene.environment)
    assert calls() == before
    tick(scene.environment, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert calls() == before + 1  # the control: the count does see it


def test_disabled_or_unwanted_signals_are_not_sent(scene: Scene, collector: Collector) -> None:
    endpoint = collector.endpoint
    tick(scene.environment, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SDK_DISABLED="true")
    assert not collector.bodies
    tick(scene.environment, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_TRACES_EXPORTER="none")
    assert set(collector.bodies) == {"/v1/metrics"}
    collector.bodies.clear()
    tick(scene.environment, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_METRICS_EXPORTER="none")
    assert set(collector.bodies) == {"/v1/traces"}
    collector.bodies.clear()
    tick(scene.environment, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{endpoint}/v1/metrics")
    assert set(collector.bodies) == {"/v1/metrics"}


# --- a collector in trouble -----------------------------------------------------------------------------------------------


def test_a_collector_that_is_down_fails_nothing_and_is_waited_for_once(scene: Scene) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    scene.add_tweets(3)
    scene.abandon()
    quiet = tick(scene.environment, ticks=3)
    ticked = tick(scene.environment, ticks=3, wait=False, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert scene.pending() == 0
    assert ticked.took_s[0] < quiet.took_s[0] + in_time(2.5)  # a second, and setting up
    assert max(ticked.took_s[1:]) < in_time(0.5)
    assert ticked.lived_s < quiet.lived_s + in_time(5)


def test_a_collector_that_never_answers_holds_up_neither_sweeps_nor_the_exit(scene: Scene) -> None:
    scene.add_tweets(3)
    scene.abandon()
    with socket.socket() as black_hole:
        black_hole.bind(("127.0.0.1", 0))
        black_hole.listen(100)
        endpoint = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        ticked = tick(scene.environment, ticks=4, wait=False, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert scene.pending() == 0
    assert 0.9 < ticked.took_s[0] < in_time(3.5)  # waited for its second: the black hole is one
    assert max(ticked.took_s[1:]) < in_time(0.5)
    assert ticked.lived_s < in_time(8)


def test_an_endpoint_without_the_exporters_package_is_warned_of_once(scene: Scene) -> None:
    hide = """
    import importlib.util as util
    found = util.find_spec
    util.find_spec = lambda name, package=None: None if "exporter" in name else found(name, package)
    """
    ticked = tick(
        scene.environment, ticks=2, before=hide, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_LOG_LEVEL=""
    )
    assert ticked.stderr.count("opentelemetry-exporter-otlp-proto-http is not installed") == 1
    assert "opentelemetry.sdk.trace" not in ticked.modules


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "supported is http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "could not be set up"),
    ],
)
def test_settings_of_the_exporter_that_cannot_be_used_are_warned_of_once(
    scene: Scene, variable: str, value: str, words: str
) -> None:
    scene.add_tweets(1)
    scene.abandon()
    environment = {**scene.environment, variable: value}
    ticked = tick(environment, ticks=2, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert ticked.stderr.count(words) == 1
    assert scene.pending() == 0


# --- Azure Monitor, which the worker sets up ------------------------------------------------------------------------------

WORKERS_PROVIDERS = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
import atexit, sys
def tell():
    data = reader.get_metrics_data()
    names = [m.name for m in data.resource_metrics[0].scope_metrics[0].metrics]
    print("SPANS", [span.name.split()[0] for span in spans.get_finished_spans()], "METRICS", names, file=sys.stderr)
atexit.register(tell)
"""


def test_under_the_workers_switch_its_providers_are_used_and_no_others(scene: Scene, collector: Collector) -> None:
    scene.add_tweets(1)
    scene.abandon()
    ticked = tick(
        scene.environment,
        before=WORKERS_PROVIDERS,
        PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
    )
    assert "SPANS ['settle', 'process', 'sweep'] METRICS" in ticked.stderr
    assert "stream_janitor.pending" in ticked.stderr
    assert not collector.bodies
    assert "opentelemetry.exporter.otlp.proto.http" not in ticked.modules


def test_a_worker_that_set_up_nothing_is_warned_of_once(scene: Scene) -> None:
    ticked = tick(scene.environment, ticks=2, PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY="true")
    assert ticked.stderr.count("add azure-monitor-opentelemetry to requirements.txt") == 1


# --- the fields in which traces travel --------------------------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer", "keep"])
@pytest.mark.parametrize("keeps", ["false", "true"])
async def test_trace_fields_are_stored_only_if_wanted_and_the_others_byte_for_byte(
    scene: Scene, sweep: Sweeper, mode: str, on_conflict: str, keeps: str
) -> None:
    others: list[bytes | str | int] = ["id", "1", "Traceparent", "not it", b"\xff\x00", b"\x80", "traceparent2", ""]
    scene.add(*others, "tracestate", "v=1", "traceparent", traceparent(1), "traceparent", traceparent(2))
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode, ON_CONFLICT=on_conflict, KEEP_TRACE_FIELDS=keeps))
    held = scene.hash("1")
    entry_id = held.pop(b"stream_entry_id", None)
    assert (entry_id is not None) == (on_conflict == "newer")
    wanted = {b"id": b"1", b"Traceparent": b"not it", b"\xff\x00": b"\x80", b"traceparent2": b""}
    if keeps == "true":
        wanted |= {b"tracestate": b"v=1", b"traceparent": traceparent(2).encode()}
    assert held == wanted


async def test_a_trace_field_that_makes_the_key_is_kept(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("traceparent", "t1", "text", "x")
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode, ID_FIELDS="traceparent"))
    assert scene.hash("t1") == {b"traceparent": b"t1", b"text": b"x"}


async def test_a_dead_letter_holds_the_trace_fields_byte_for_byte(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("traceparent", traceparent(1), "tracestate", "v=1", "text", "no id")
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode))
    ((_, fields),) = scene.dead_letters()
    assert list(fields)[14:] == [  # type: ignore[call-overload]
        b"traceparent", traceparent(1).encode(), b"tracestate", b"v=1", b"text", b"no id",
    ]  # fmt: skip


async def test_an_entry_of_five_thousand_fields_loses_only_its_trace_fields(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    fields: list[bytes | str | int] = ["id", "1", "traceparent", traceparent(1)]
    for number in range(5000):
        fields += [f"field{number}", number]
    scene.add(*fields)
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode))
    held = scene.hash("1")
    assert len(held) == 5001
    assert b"traceparent" not in held


def test_fields_without_a_trace_are_the_same_list() -> None:
    fields = [b"id", b"1", b"text", b"traceparent2"]
    assert split_from_trace(fields)[0] is fields


def test_a_value_that_reads_traceparent_is_no_trace_field() -> None:
    fields = [b"id", b"traceparent", b"tracestate2", b"tracestate"]
    assert split_from_trace(fields) == (fields, None)


# --- the function's signature -----------------------------------------------------------------------------------------


def test_the_functions_context_is_annotated_as_the_platforms_worker_wants_it() -> None:
    function = function_app.monitor._function.get_user_function()
    annotations = typing.get_type_hints(function)
    assert annotations["context"] is func.Context
    parameter = inspect.signature(function).parameters["context"]
    assert parameter.default is not None  # on 3.10 it would make the hint Optional
    assert parameter.default is not inspect.Parameter.empty


# --- the log --------------------------------------------------------------------------------------------------------------


async def test_a_sweep_is_one_line_for_people_and_the_same_as_attributes(
    scene: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    scene.add_tweets(2)
    scene.abandon()
    with caplog.at_level("INFO", "monitor"):
        report = await sweep(scene.settings())
    (record,) = [record for record in caplog.records if hasattr(record, "report")]
    assert record.getMessage() == str(report)
    assert "\n" not in record.getMessage()
    attributes = vars(record)
    assert (attributes["sweep_pending"], attributes["sweep_processed"], attributes["sweep_complete"]) == (2, 2, True)
    assert attributes["report"] == report.as_dict()
