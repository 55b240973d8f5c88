"""The two fields in which a producer leaves its trace context, flat in the entry (settle.lua has the same rule)."""

from __future__ import annotations

from typing import Final

from shared.telemetry import TraceContext

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
LONGEST_TRACEPARENT: Final = 64
LONGEST_TRACESTATE: Final = 512
"""W3C Trace Context: 55 characters in version 00, and 512. What is longer is not looked at."""


def split_from_trace(fields: list[bytes]) -> tuple[list[bytes], TraceContext | None]:
    """An entry's names and values without the two fields, and what they held: the last, where one is there twice."""
    if TRACEPARENT not in fields and TRACESTATE not in fields:
        return fields, None
    rest: list[bytes] = []
    held = {TRACEPARENT: b"", TRACESTATE: b""}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name in held:
            held[name] = value
        else:
            rest += (name, value)
    return rest, _usable(held[TRACEPARENT], held[TRACESTATE])


def _usable(traceparent: bytes, tracestate: bytes) -> TraceContext | None:
    if not 0 < len(traceparent) <= LONGEST_TRACEPARENT:
        return None
    return traceparent, tracestate if len(tracestate) <= LONGEST_TRACESTATE else b""
