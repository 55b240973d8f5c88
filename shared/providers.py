"""Which providers of OpenTelemetry this process has: the worker's, our own, or none. See telemetry.py."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.trace import TracerProvider

    from shared.prometheus import Listener

logger = logging.getLogger("monitor")

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
SWITCHES: Final = (
    _ENDPOINT,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY",
)
"""The variables that decide it, or that the resource is made of."""
_PACKAGE: Final = "opentelemetry-exporter-otlp-proto-http"
_PULL: Final = "prometheus"


@dataclass(frozen=True, slots=True)
class Providers:
    """Where spans and metrics go. Either may be one that tells nothing."""

    tracers: TracerProvider
    meters: MeterProvider
    is_ours: bool
    """False: the worker's, which it also ends."""
    close_listener: Callable[[], None] | None = None
    """Frees the address from which metrics are pulled."""


def chosen(environment: Mapping[str, str], function: str, can_be_scraped: bool) -> Providers | None:
    """The providers that ``environment`` asks for; None, and a warning where something is missing, if there are none."""
    if _is_true(environment, "OTEL_SDK_DISABLED"):
        return None
    _warn_of_exporters(environment, can_be_scraped)
    if _is_true(environment, "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"):
        return _of_the_worker()
    return _by_exporters(environment, function, can_be_scraped)


def _is_true(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() in ("true", "1")


def _of_the_worker() -> Providers | None:
    if importlib.util.find_spec("opentelemetry") is None:
        logger.warning(
            "no telemetry is sent: PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY is set, opentelemetry not installed"
        )
        return None
    from opentelemetry import metrics, trace

    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not hasattr(tracers, "force_flush") and not hasattr(meters, "force_flush"):
        logger.warning(
            "no telemetry is sent: PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY is set, but the worker set up no exporter; add "
            "azure-monitor-opentelemetry to requirements.txt"
        )
        return None
    return Providers(tracers, meters, is_ours=False)


def _exporters(environment: Mapping[str, str], signal: str) -> frozenset[str]:
    """What ``OTEL_METRICS_EXPORTER`` or ``OTEL_TRACES_EXPORTER`` names; ``otlp`` if it is unset."""
    names = environment.get(f"OTEL_{signal}_EXPORTER", "").lower().split(",")
    return frozenset(name.strip() for name in names if name.strip()) or frozenset(("otlp",))


def _warn_of_exporters(environment: Mapping[str, str], can_be_scraped: bool) -> None:
    named = _exporters(environment, "METRICS")
    if _PULL in named and not can_be_scraped:
        logger.warning(
            "OTEL_METRICS_EXPORTER=%s is ignored here: function apps and single sweeps cannot be scraped; push over OTLP",
            _PULL,
        )
    if unknown := named - {"otlp", "none", _PULL}:
        logger.warning("OTEL_METRICS_EXPORTER: expected otlp, %s or none, got %s", _PULL, ", ".join(sorted(unknown)))


def _by_exporters(environment: Mapping[str, str], function: str, can_be_scraped: bool) -> Providers | None:
    wants_spans, wants_metrics = _over_otlp(environment)
    listener = _listener(environment) if can_be_scraped and _PULL in _exporters(environment, "METRICS") else None
    if not (wants_spans or wants_metrics or listener):
        return None
    tracers, meters = _our_providers(environment, function, wants_spans, wants_metrics, listener)
    return Providers(tracers, meters, is_ours=True, close_listener=listener.close if listener else None)


def _listener(environment: Mapping[str, str]) -> Listener | None:
    try:
        from shared.prometheus import open_listener
    except ModuleNotFoundError:
        logger.warning(
            "no metrics can be pulled: OTEL_METRICS_EXPORTER is %s, but opentelemetry-exporter-prometheus is not installed "
            "(requirements-prometheus.txt)",
            _PULL,
        )
        return None
    return open_listener(environment)


def _over_otlp(environment: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether spans and whether metrics are to be sent over OTLP, and can be."""
    wanted = _wants(environment, "TRACES"), _wants(environment, "METRICS")
    if not any(wanted):
        return wanted
    protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "http/protobuf"
    if protocol != "http/protobuf":
        logger.warning("no telemetry is sent: OTEL_EXPORTER_OTLP_PROTOCOL is %s, supported is http/protobuf", protocol)
        return False, False
    if not _has_exporter():
        logger.warning("no telemetry is sent: %s is set, but %s is not installed", _ENDPOINT, _PACKAGE)
        return False, False
    return wanted


def _has_exporter() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _wants(environment: Mapping[str, str], signal: str) -> bool:
    if "otlp" not in _exporters(environment, signal):
        return False
    return any(environment.get(name, "").strip() for name in (_ENDPOINT, f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


def _our_providers(
    environment: Mapping[str, str], function: str, wants_spans: bool, wants_metrics: bool, listener: Listener | None
) -> tuple[TracerProvider, MeterProvider]:
    """Providers for this module alone. They don't flush at exit: a collector that is away would hold up the exit."""
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.trace import NoOpTracerProvider

    by_user = OTELResourceDetector().detect().attributes
    resource = Resource.create({**resource_attributes(environment, function), **by_user})
    tracers: TracerProvider = NoOpTracerProvider()
    meters: MeterProvider = NoOpMeterProvider()
    if wants_spans:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        tracers = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers: list[MetricReader] = [listener.reader] if listener else []
    if wants_metrics:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if readers:
        from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider

        meters = SdkMeterProvider(readers, resource=resource, shutdown_on_exit=False)
    return tracers, meters


def resource_attributes(environment: Mapping[str, str], function: str) -> dict[str, str | int]:
    """Who tells, by the variables that Azure sets; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before it.

    The instance is new for each process, as counters begin at 0 with it.
    """
    import uuid

    site = environment.get("WEBSITE_SITE_NAME", "")
    host = environment.get("WEBSITE_INSTANCE_ID") or environment.get("CONTAINER_NAME") or socket.gethostname()
    attributes: dict[str, str | int] = {
        "service.name": site or "stream-janitor",
        "service.instance.id": str(uuid.uuid4()),
    }
    if function:
        attributes["faas.name"] = f"{site}/{function}" if site else function
        attributes["faas.instance"] = host
        if environment.get("WEBSITE_MEMORY_LIMIT_MB", "").isdecimal():
            attributes["faas.max_memory"] = int(environment["WEBSITE_MEMORY_LIMIT_MB"]) * 1024 * 1024
    if site:
        attributes |= {"cloud.provider": "azure", "cloud.platform": "azure.functions"}
        if environment.get("REGION_NAME"):
            attributes["cloud.region"] = environment["REGION_NAME"]
    return attributes
