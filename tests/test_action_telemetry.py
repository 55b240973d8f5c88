"""The actions tell what store tells: links to the producers' traces, outcomes, and nothing more is imported for them."""

from __future__ import annotations

import pytest

from tests.collector import Collector
from tests.conftest import Scene
from tests.test_telemetry import add_traced, collector, tick, traceparent

__all__ = ["collector"]

MODES = [("requeue", "script"), ("requeue", "gather"), ("dead_letter", "gather")]


@pytest.mark.parametrize(("action", "mode"), MODES)
def test_batches_link_to_the_traces_of_their_entries_which_keep_their_fields(
    scene: Scene, collector: Collector, action: str, mode: str
) -> None:
    add_traced(scene, 3)
    scene.add("id", "9", "text", "no trace")
    scene.abandon()
    environment = {**scene.environment, "ACTION": action, "SETTLE_MODE": mode}
    tick(environment, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    links = [link for span in collector.named("process") for link in span.links]
    assert sorted(link.trace_id.hex() for link in links) == [f"{number + 1:032x}" for number in range(3)]
    stream = scene.stream if action == "requeue" else f"{scene.stream}:dead"
    held = [fields for _, fields in scene.raw.execute_command("XRANGE", stream, "-", "+")][-4:]
    assert sum(traceparent(number).encode() in fields for fields in held for number in range(3)) == 3


@pytest.mark.parametrize(
    ("action", "others"), [("store", ("requeue", "dead_letter", "observe")), ("requeue", ("store", "observe"))]
)
def test_a_tick_imports_its_own_action_only(scene: Scene, action: str, others: tuple[str, ...]) -> None:
    scene.add_tweets(3)
    scene.abandon()
    ticked = tick({**scene.environment, "ACTION": action, "INDEX_SCHEMA": "off"})
    assert f"monitor.actions.{action}" in ticked.modules
    assert not {f"monitor.actions.{other}" for other in others} & ticked.modules
    assert "monitor.forecast" not in ticked.modules
