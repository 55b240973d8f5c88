"""What Prometheus calls our metrics and attributes, however they get there."""

from __future__ import annotations

from shared.telemetry import INSTRUMENTS, Instrument

LABELS = {"messaging_destination_name", "messaging_consumer_group_name", "stream_janitor_outcome", "error_type"}


def prometheus_names(instrument: Instrument) -> set[str]:
    """Underscores, the unit, then ``_total`` for a counter."""
    name = instrument.name.replace(".", "_") + {"s": "_seconds", "{message}": ""}[instrument.unit]
    if instrument.kind == "histogram":
        return {name + suffix for suffix in ("_bucket", "_sum", "_count")}
    return {name + "_total"} if instrument.kind == "counter" else {name}


DEFINED = {name for instrument in INSTRUMENTS for name in prometheus_names(instrument)}
