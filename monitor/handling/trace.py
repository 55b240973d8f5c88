"""The trace context of the entry that a handler works on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from shared.telemetry import TraceContext


@contextlib.contextmanager
def current_trace(traces: Sequence[TraceContext | None]) -> Iterator[None]:
    """Make the entry's trace context current, so that the handler's own spans belong to its producer's trace.

    Of a batch of several there is none to choose; its span has links to all. Where nobody has imported OpenTelemetry there
    is nobody to ask for it.
    """
    (trace,) = traces if len(traces) == 1 else (None,)
    if trace is None or "opentelemetry" not in sys.modules:
        yield
        return
    from opentelemetry.context import attach, detach
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    traceparent, tracestate = (part.decode("latin-1") for part in trace)
    carrier = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    token = attach(TraceContextTextMapPropagator().extract(carrier))
    try:
        yield
    finally:
        detach(token)
