"""An OTLP/HTTP collector for tests: a real HTTP server that decodes what it gets with the protocol's own protobuf classes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One data point: its attributes, and its value (of a histogram: count and sum)."""

    attributes: Attributes
    value: Any


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    description: str
    kind: str
    points: tuple[Point, ...]


class Collector:
    """A context manager that listens on 127.0.0.1 and keeps every request."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics_requests: list[ExportMetricsServiceRequest] = []
        self.resources: list[Attributes] = []
        self.bodies: dict[str, bytes] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        self.bodies[path] = self.bodies.get(path, b"") + body
        if path == "/v1/traces":
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(attributes_of(of_resource.resource.attributes))
                for of_scope in of_resource.scope_spans:
                    self.spans += of_scope.spans
        elif path == "/v1/metrics":
            request = ExportMetricsServiceRequest.FromString(body)
            self.metrics_requests.append(request)
            self.resources += [attributes_of(item.resource.attributes) for item in request.resource_metrics]

    def metrics(self) -> dict[str, Metric]:
        """The last export, by name."""
        last = self.metrics_requests[-1]
        found = (metric for item in last.resource_metrics for scope in item.scope_metrics for metric in scope.metrics)
        return {metric.name: _metric(metric) for metric in found}

    def named(self, verb: str) -> list[Any]:
        """The spans whose name begins with ``verb``."""
        return [span for span in self.spans if span.name.split(" ")[0] == verb]

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes_of(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    value = getattr(pair.value, kind)
    return [item.string_value for item in value.values] if kind == "array_value" else value


def _metric(metric: Any) -> Metric:
    kind = metric.WhichOneof("data")
    points = tuple(_points(kind, getattr(metric, kind).data_points))
    return Metric(metric.name, metric.unit, metric.description, kind, points)


def _points(kind: str, points: Any) -> Iterator[Point]:
    for point in points:
        value: Any = (point.count, point.sum) if kind == "histogram" else getattr(point, point.WhichOneof("value"))
        yield Point(attributes_of(point.attributes), value)
