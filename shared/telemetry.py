"""What is told of each sweep: every metric and span of this project, and where they go.

Nothing is told, and nothing of OpenTelemetry imported, unless an exporter is configured by the usual variables:

- ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``, ``…_METRICS_ENDPOINT``): providers of our own send OTLP over HTTP;
- ``OTEL_METRICS_EXPORTER=prometheus`` (or ``otlp,prometheus``): metrics are pulled from a listener (shared/prometheus.py);
- ``PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY=true``: the Functions worker has set up Azure Monitor; its providers are used, and
  no others are made, whatever else is set.

Telemetry never fails a sweep and never holds one up: what is told lies in memory until ``flush``, which sends it from a thread of
its own. Stream, group and outcome are all that a metric tells apart: entry ids stand on spans only; keys, field names and
values nowhere. Names: OpenTelemetry semantic conventions 1.44 (messaging, faas, error), UCUM units.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from shared.providers import SWITCHES, chosen

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, TracerProvider

logger = logging.getLogger("monitor")

SCOPE: Final = "stream_janitor"
MOST_LINKS: Final = 100
"""Links of one batch's span; what goes beyond is only counted."""
STALE_AFTER_INTERVALS: Final = 3
LONGEST_FLUSH_WAIT_S: Final = 1.0
FLUSH_SHARE_OF_INTERVAL: Final = 0.1

TraceContext: TypeAlias = tuple[bytes, bytes]
"""An entry's ``traceparent`` and ``tracestate`` (empty if it has none), as its producer wrote them: hostile until parsed."""
Value: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = dict[str, Value]


# --- the instruments: all of them -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric: its kind (gauge, counter, histogram), its name, its unit in UCUM, and what it counts."""

    kind: str
    name: str
    unit: str
    description: str


PENDING: Final = Instrument(
    "gauge", "stream_janitor.pending", "{message}", "How many entries were pending when the last sweep began."
)
OLDEST_PENDING_AGE: Final = Instrument(
    "gauge",
    "stream_janitor.oldest_pending.age",
    "s",
    "How many seconds old the oldest pending entry was when the last sweep began; 0 if nothing was pending.",
)
CLOCK_BEHIND: Final = Instrument(
    "gauge",
    "stream_janitor.server_clock.behind",
    "s",
    "How many seconds the server's clock was set back behind the newest pending id, so that nothing is abandoned; 0: it was not.",
)
LAG: Final = Instrument(
    "gauge",
    "stream_janitor.lag",
    "{message}",
    "How many entries the group has not been given yet (Redis 7.0 and later).",
)
DEAD_LETTERS: Final = Instrument(
    "gauge", "stream_janitor.dead_letters", "{message}", "How many entries lie in the dead-letter stream."
)
CANDIDATES: Final = Instrument(
    "counter", "stream_janitor.candidates", "{message}", "How many abandoned entries sweeps took up."
)
SETTLED: Final = Instrument(
    "counter",
    "stream_janitor.settled",
    "{message}",
    "How many of the candidates met each outcome; over all outcomes, the candidates.",
)
UNSEARCHABLE: Final = Instrument(
    "counter", "stream_janitor.unsearchable", "{message}", "How many stored entries the search index refused."
)
SWEEP_DURATION: Final = Instrument(
    "histogram",
    "stream_janitor.sweep.duration",
    "s",
    "How many seconds a sweep took; error.type if it ended in an error.",
)
STREAM_LENGTH: Final = Instrument(
    "gauge", "stream_janitor.stream.length", "{message}", "How many entries the stream holds, read or not."
)
RETENTION_HELD: Final = Instrument(
    "gauge",
    "stream_janitor.retention.held",
    "s",
    "How many seconds longer than RETAIN_SEC a group has kept the first entry; 0 if none does, or RETAIN_SEC is off.",
)
TRIMMED: Final = Instrument(
    "counter",
    "stream_janitor.trimmed",
    "{message}",
    "How many entries that every group has finished with were trimmed.",
)
DEAD_LETTERS_TRIMMED: Final = Instrument(
    "counter", "stream_janitor.dead_letters.trimmed", "{message}", "How many old dead letters were thrown away."
)
LAST_SWEEP_TIME: Final = Instrument(
    "gauge",
    "stream_janitor.last_sweep.time",
    "s",
    "How many seconds after 1970-01-01T00:00Z the last sweep ended, successful or not.",
)
LAST_SUCCESS_TIME: Final = Instrument(
    "gauge",
    "stream_janitor.last_success.time",
    "s",
    "How many seconds after 1970-01-01T00:00Z the last sweep ended that met no error.",
)
INSTRUMENTS: Final = (
    PENDING, OLDEST_PENDING_AGE, CLOCK_BEHIND, LAG, DEAD_LETTERS, STREAM_LENGTH, RETENTION_HELD, CANDIDATES, SETTLED,
    UNSEARCHABLE, TRIMMED,
    DEAD_LETTERS_TRIMMED, SWEEP_DURATION, LAST_SWEEP_TIME, LAST_SUCCESS_TIME,
)  # fmt: skip
HANDLER_DURATION: Final = Instrument(
    "histogram",
    "stream_janitor.handler.duration",
    "s",
    "How many seconds a call of the handler took, up to its timeout.",
)
HANDLER_ATTEMPTS: Final = Instrument(
    "counter",
    "stream_janitor.handler.attempts",
    "{message}",
    "How many entries the handler was called with, by what it said of them.",
)
HANDLER_INSTRUMENTS: Final = (HANDLER_DURATION, HANDLER_ATTEMPTS)
"""Only under ACTION=handle; made at its first call."""
DURATION_BOUNDARIES_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0)

OUTCOME: Final = "stream_janitor.outcome"
VERDICT: Final = "stream_janitor.verdict"
LINKS_LEFT_OUT: Final = "stream_janitor.links_left_out"


# --- what a sweep tells ---------------------------------------------------------------------------------------------------


class Report(Protocol):
    """What is read of a sweep's report; the report itself is monitor's."""

    @property
    def candidates(self) -> int: ...
    @property
    def unsearchable(self) -> int: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def complete(self) -> bool: ...
    @property
    def settle_mode(self) -> str: ...
    @property
    def trimmed(self) -> int: ...
    @property
    def dead_letters_trimmed(self) -> int: ...


class Reason(Protocol):
    """How many entries met one fate for one reason, and the first of their ids."""

    @property
    def count(self) -> int: ...
    @property
    def entry_ids(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How the group stood when a sweep opened. A sweep that could not open has none, and no gauge then tells a number."""

    pending: int
    oldest_pending_age_s: float | None
    lag: int | None
    """None: Redis does not tell (before 7.0, or after a deletion in the stream), or the user lacks XINFO GROUPS."""
    dead_letters: int | None
    """None: there is no dead-letter stream, or the user lacks XLEN."""
    stream_length: int | None = None
    """None: the user lacks XLEN."""
    retention_held_s: float | None = None
    """How much longer than RETAIN_SEC a group has kept the first entry; 0: none does."""
    clock_behind_s: float = 0.0
    """How far the server's clock was set back behind what is pending; above 0 no age is known."""


@dataclass(frozen=True, slots=True)
class SweepFacts:
    """A sweep that ended."""

    report: Report
    outcomes: Mapping[str, int]
    """Every outcome, also those of none: their sum is the candidates."""
    reasons: Mapping[str, Reason]
    standing: Standing | None
    error: Exception | None


class BatchSpan:
    """The span of one batch; this one tells nothing."""

    def took(self, taken: int, trace_contexts: Sequence[TraceContext], left_out: int = 0) -> None:
        """The first ``taken`` entries were taken up; link their traces. ``left_out`` had a trace that is not given here."""

    def failed(self, error: BaseException) -> None:
        """The batch was not settled."""


class GroupTelemetry:
    """What is told of one consumer group; this one tells nothing and costs nothing."""

    is_on = False
    """Whether lag and dead letters are worth asking Redis for."""
    most_links = 0
    """How many trace contexts of a batch are wanted; 0 if no spans are sent."""

    def sweep(self) -> AbstractContextManager[Callable[[SweepFacts], None]]:
        """The span around a sweep; call what it gives with the sweep's facts when it ended."""
        return _TELLS_NOTHING_OF_A_SWEEP

    def batch(self, count: int) -> AbstractContextManager[BatchSpan]:
        """The span around the settling of ``count`` entries, dead-lettering included."""
        return _TELLS_NOTHING_OF_A_BATCH

    def claim(self, count: int) -> AbstractContextManager[object]:
        """The span around the round trip that makes ``count`` entries ours."""
        return _TELLS_NOTHING

    def settle(self, count: int) -> AbstractContextManager[object]:
        """The span around the round trip that acknowledges ``count`` entries; by script, it also claims and stores them."""
        return _TELLS_NOTHING

    def handled(self, duration_s: float, verdicts: Mapping[str, int]) -> None:
        """A call of the handler has ended: what it said, and of how many entries."""


_TELLS_NOTHING: Final = contextlib.nullcontext()
_TELLS_NOTHING_OF_A_SWEEP: Final = contextlib.nullcontext[Callable[[SweepFacts], None]](lambda facts: None)
_TELLS_NOTHING_OF_A_BATCH: Final = contextlib.nullcontext(BatchSpan())


class Telemetry:
    """Where this process tells of its sweeps; this one tells nothing and costs nothing."""

    def of_group(self, stream: str, group: str, interval_s: float) -> GroupTelemetry:
        """What is to be told of one group, which is swept every ``interval_s`` seconds."""
        return SILENT_GROUP

    def invocation(self, trace_context: Any, invocation_id: str, is_cold: bool) -> AbstractContextManager[object]:
        """The platform's call in which sweeps run: their parent, by the W3C headers in ``trace_context``, and attributes."""
        return _TELLS_NOTHING

    async def flush(self, interval_s: float) -> None:
        """Send what was told. Never raises; waits for at most a tenth of the interval, and a second, then goes on behind."""

    def stop(self) -> None:
        """Tell nothing more. Does not wait and does not flush."""


SILENT_GROUP: Final = GroupTelemetry()
SILENT: Final = Telemetry()


# --- which one ------------------------------------------------------------------------------------------------------------


class _Process:
    """The telemetry of this process, and the switches that it was made for."""

    telemetry: Telemetry = SILENT
    switches: tuple[str | bool | None, ...] | None = None


def of_process(function: str = "", *, can_be_scraped: bool = False) -> Telemetry:
    """This process's telemetry, by its environment; the same one until the environment changes.

    ``function`` names the function that runs here, for the resource; empty outside a function app. ``can_be_scraped``: this
    process lives on, alone on its address, so that a listener for metrics makes sense.
    """
    switches = (can_be_scraped, *(os.environ.get(name) for name in SWITCHES))
    if switches != _Process.switches:
        _Process.telemetry.stop()
        _Process.telemetry, _Process.switches = _chosen(os.environ, function, can_be_scraped), switches
    return _Process.telemetry


def _chosen(environment: Mapping[str, str], function: str, can_be_scraped: bool) -> Telemetry:
    try:
        providers = chosen(environment, function, can_be_scraped)
    except Exception as error:  # noqa: BLE001 - a bad variable of the exporter's is no reason not to sweep
        logger.warning("no telemetry is sent: it could not be set up (%s: %s)", type(error).__name__, error)
        return SILENT
    if providers is None:
        return SILENT
    return _Telling(
        providers.tracers, providers.meters, is_ours=providers.is_ours, close_listener=providers.close_listener
    )


# --- with OpenTelemetry ---------------------------------------------------------------------------------------------------

_invocation_attributes: contextvars.ContextVar[Attributes | None] = contextvars.ContextVar("invocation", default=None)


class _Telling(Telemetry):
    """Tells through a tracer and a meter."""

    def __init__(
        self,
        tracers: TracerProvider,
        meters: MeterProvider,
        *,
        is_ours: bool,
        close_listener: Callable[[], None] | None = None,
    ) -> None:
        self._flusher = _Flusher((meters, tracers))  # metrics first: alerts hang on them
        self._is_ours = is_ours
        self._close_listener = close_listener
        self._tracer = tracers.get_tracer(SCOPE)
        self._instruments = _Instruments(meters)
        self._sends_spans = hasattr(tracers, "force_flush")

    def of_group(self, stream: str, group: str, interval_s: float) -> GroupTelemetry:
        stale_after_s = STALE_AFTER_INTERVALS * interval_s
        return _TellingOfGroup(self._tracer, self._instruments, stream, group, stale_after_s, self._sends_spans)

    @contextlib.contextmanager
    def invocation(self, trace_context: Any, invocation_id: str, is_cold: bool) -> Iterator[None]:
        from opentelemetry import context

        attributes: Attributes = {"faas.trigger": "timer", "faas.coldstart": is_cold}
        if invocation_id:
            attributes["faas.invocation_id"] = invocation_id
        parent = getattr(trace_context, "trace_parent", None)
        state = getattr(trace_context, "trace_state", None)
        attached = context.attach(_parsed(parent, state)) if isinstance(parent, str) and parent else None
        token = _invocation_attributes.set(attributes)
        try:
            yield
        finally:
            _invocation_attributes.reset(token)
            if attached is not None:
                context.detach(attached)

    async def flush(self, interval_s: float) -> None:
        wait_s = min(LONGEST_FLUSH_WAIT_S, FLUSH_SHARE_OF_INTERVAL * interval_s)
        loop, flushed = asyncio.get_running_loop(), asyncio.Event()

        def tell_flushed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(flushed.set)

        is_waited_for = self._flusher.keeps_up
        self._flusher.flush(wait_s, tell_flushed)
        if is_waited_for:
            try:
                await asyncio.wait_for(flushed.wait(), wait_s)
            except asyncio.TimeoutError:
                self._flusher.keeps_up = False

    def stop(self) -> None:
        if self._close_listener is not None:
            self._close_listener()
        if self._is_ours:
            self._flusher.stop()


class _Flusher:
    """Flushes providers from a thread of its own, one flush at a time: the SDK keeps no bound on the time that it takes."""

    def __init__(self, providers: Sequence[Any]) -> None:
        self.keeps_up = True
        """The last flush was quick. A collector that is away or slow is waited for once, and again when it has been quick."""
        self._providers = providers
        self._lock = threading.Lock()
        self._wanted: list[Callable[[], None]] = []
        self._is_running = False

    def flush(self, quick_s: float, then: Callable[[], None]) -> None:
        """Have everything sent that was told by now, and ``then`` called; a flush under way is followed by another."""
        with self._lock:
            self._wanted.append(then)
            if self._is_running:
                return
            self._is_running = True
        # Not the loop's executor: its threads are waited for when the process ends.
        threading.Thread(target=self._run, args=(quick_s,), name="telemetry-flush", daemon=True).start()

    def _run(self, quick_s: float) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, []
                self._is_running = bool(wanted)
            if not wanted:
                return
            began_s = time.monotonic()
            self._flush_all()
            self.keeps_up = time.monotonic() - began_s < quick_s
            for then in wanted:
                then()

    def _flush_all(self) -> None:
        for provider in self._providers:
            flush = getattr(provider, "force_flush", None)
            if flush is not None:
                try:
                    flush()
                except Exception as error:  # noqa: BLE001
                    logger.debug("telemetry was not flushed: %s", type(error).__name__)

    def stop(self) -> None:
        for provider in self._providers:
            shutdown = getattr(provider, "shutdown", None)
            if shutdown is not None:  # waits for what is under way
                threading.Thread(target=shutdown, name="telemetry-stop", daemon=True).start()


@dataclass(frozen=True, slots=True)
class _Reading:
    """A group's standing, until it is stale."""

    standing: Standing
    attributes: Attributes
    stale_at_s: float


@dataclass(frozen=True, slots=True)
class _Times:
    """When a group's sweeps ended, in Unix seconds. Never stale: how long ago it is is what they are for."""

    attributes: Attributes
    last_sweep_s: float
    last_success_s: float | None


class _Instruments:
    """The instruments, made once for each process. Gauges are asked at each export and tell what is not stale by then."""

    def __init__(
        self,
        meters: MeterProvider,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        meter = meters.get_meter(SCOPE)
        self._meter = meter
        self._handlers: tuple[Any, Any] | None = None
        self._readings: dict[tuple[str, str], _Reading] = {}
        self._times: dict[tuple[str, str], _Times] = {}
        self._now_s, self._unix_s = now_s, unix_s
        self._counters = {
            instrument: meter.create_counter(instrument.name, instrument.unit, instrument.description)
            for instrument in INSTRUMENTS
            if instrument.kind == "counter"
        }
        self._duration = meter.create_histogram(
            SWEEP_DURATION.name,
            SWEEP_DURATION.unit,
            SWEEP_DURATION.description,
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES_S,
        )
        callbacks = {instrument: self._callback(read) for instrument, read in _READ.items()}
        callbacks |= {instrument: self._callback_of_time(read) for instrument, read in _READ_TIME.items()}
        for instrument, callback in callbacks.items():
            meter.create_observable_gauge(instrument.name, [callback], instrument.unit, instrument.description)

    def record_call(self, duration_s: float, verdicts: Mapping[str, int], stream: str, group: str) -> None:
        attributes = _group_attributes(stream, group)
        duration, attempts = self._of_handlers()
        duration.record(duration_s, attributes)
        for verdict, count in verdicts.items():
            attempts.add(count, {**attributes, VERDICT: verdict})

    def _of_handlers(self) -> tuple[Any, Any]:
        if self._handlers is None:
            took, attempts = HANDLER_INSTRUMENTS
            self._handlers = (
                self._meter.create_histogram(
                    took.name, took.unit, took.description, explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES_S
                ),
                self._meter.create_counter(attempts.name, attempts.unit, attempts.description),
            )
        return self._handlers

    def _callback(
        self, read: Callable[[Standing], int | float | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for reading in tuple(self._readings.values()):
                value = read(reading.standing) if self._now_s() < reading.stale_at_s else None
                if value is not None:
                    yield Observation(value, reading.attributes)

        return observe

    def _callback_of_time(
        self, read: Callable[[_Times], float | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for times in tuple(self._times.values()):
                value = read(times)
                if value is not None:
                    yield Observation(value, times.attributes)

        return observe

    def record(self, facts: SweepFacts, stream: str, group: str, stale_after_s: float) -> None:
        attributes = _group_attributes(stream, group)
        self._counters[CANDIDATES].add(facts.report.candidates, attributes)
        for outcome, count in facts.outcomes.items():
            self._counters[SETTLED].add(count, {**attributes, OUTCOME: outcome})
        self._counters[UNSEARCHABLE].add(facts.report.unsearchable, attributes)
        self._counters[TRIMMED].add(facts.report.trimmed, attributes)
        self._counters[DEAD_LETTERS_TRIMMED].add(facts.report.dead_letters_trimmed, attributes)
        self._duration.record(facts.report.duration_s, {**attributes, **_error_type(facts.error)})
        if facts.standing is not None:
            stale_at_s = self._now_s() + stale_after_s
            self._readings[stream, group] = _Reading(facts.standing, attributes, stale_at_s)
        ended_s, before = self._unix_s(), self._times.get((stream, group))
        last_success_s = ended_s if facts.error is None else before.last_success_s if before else None
        self._times[stream, group] = _Times(attributes, ended_s, last_success_s)


_READ: Final[Mapping[Instrument, Callable[[Standing], int | float | None]]] = {
    PENDING: lambda standing: standing.pending,
    OLDEST_PENDING_AGE: lambda standing: None if standing.clock_behind_s else standing.oldest_pending_age_s or 0.0,
    CLOCK_BEHIND: lambda standing: standing.clock_behind_s,
    LAG: lambda standing: standing.lag,
    DEAD_LETTERS: lambda standing: standing.dead_letters,
    STREAM_LENGTH: lambda standing: standing.stream_length,
    RETENTION_HELD: lambda standing: standing.retention_held_s,
}


_READ_TIME: Final[Mapping[Instrument, Callable[[_Times], float | None]]] = {
    LAST_SWEEP_TIME: lambda times: times.last_sweep_s,
    LAST_SUCCESS_TIME: lambda times: times.last_success_s,
}


class _TellingOfGroup(GroupTelemetry):
    is_on = True

    def __init__(
        self, tracer: Any, instruments: _Instruments, stream: str, group: str, stale_after_s: float, sends_spans: bool
    ) -> None:
        from opentelemetry.trace import SpanKind

        self._tracer = tracer
        self._instruments = instruments
        self._stream, self._group, self._stale_after_s = stream, group, stale_after_s
        self._kinds = SpanKind
        self._attributes = _group_attributes(stream, group)
        self.most_links = MOST_LINKS if sends_spans else 0

    @contextlib.contextmanager
    def sweep(self) -> Iterator[Callable[[SweepFacts], None]]:
        with self._span("sweep", self._kinds.INTERNAL, _invocation_attributes.get() or {}) as span:

            def tell(facts: SweepFacts) -> None:
                self._instruments.record(facts, self._stream, self._group, self._stale_after_s)
                _describe(span, facts)

            yield tell

    @contextlib.contextmanager
    def batch(self, count: int) -> Iterator[BatchSpan]:
        with self._span("process", self._kinds.CONSUMER, _operation("process", "process", count)) as span:
            yield _TellingBatchSpan(span)

    def claim(self, count: int) -> AbstractContextManager[object]:
        return self._span("claim", self._kinds.CLIENT, _operation("claim", "receive", count))

    def settle(self, count: int) -> AbstractContextManager[object]:
        return self._span("settle", self._kinds.CLIENT, _operation("settle", "settle", count))

    def handled(self, duration_s: float, verdicts: Mapping[str, int]) -> None:
        self._instruments.record_call(duration_s, verdicts, self._stream, self._group)

    @contextlib.contextmanager
    def _span(self, verb: str, kind: SpanKind, attributes: Attributes) -> Iterator[Span]:
        # Not the SDK's own recording of exceptions: Redis's errors quote fields of entries.
        with self._tracer.start_as_current_span(
            f"{verb} {self._stream}",
            kind=kind,
            attributes={**self._attributes, **attributes},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                _mark_failed(span, error)
                raise


class _TellingBatchSpan(BatchSpan):
    def __init__(self, span: Span) -> None:
        self._span = span

    def took(self, taken: int, trace_contexts: Sequence[TraceContext], left_out: int = 0) -> None:
        from opentelemetry.trace import get_current_span

        self._span.set_attribute("messaging.batch.message_count", taken)
        for traceparent, tracestate in trace_contexts[:MOST_LINKS]:
            parsed = _parsed(traceparent.decode("latin-1"), tracestate.decode("latin-1"))
            linked = get_current_span(parsed).get_span_context()
            if linked.is_valid:
                self._span.add_link(linked)
        left_out += max(len(trace_contexts) - MOST_LINKS, 0)
        if left_out:
            self._span.set_attribute(LINKS_LEFT_OUT, left_out)

    def failed(self, error: BaseException) -> None:
        _mark_failed(self._span, error)


def _parsed(traceparent: str, tracestate: str | None) -> Context:
    """A context with the span that W3C headers name, or without one if they are not well-formed."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _group_attributes(stream: str, group: str) -> Attributes:
    return {
        "messaging.system": "redis",
        "messaging.destination.name": stream,
        "messaging.consumer.group.name": group,
    }


def _operation(name: str, kind: str, count: int) -> Attributes:
    return {
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.batch.message_count": count,
    }


def _error_type(error: BaseException | None) -> Attributes:
    """Redis's own code where there is one (semantic conventions for Redis), else the class."""
    if error is None:
        return {}
    from redis.exceptions import RedisError

    from shared.retry import code_of

    return {"error.type": code_of(error) if isinstance(error, RedisError) else type(error).__qualname__}


def _mark_failed(span: Span, error: BaseException, description: str | None = None) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attributes(_error_type(error))
    span.set_status(Status(StatusCode.ERROR, description))


def _describe(span: Span, facts: SweepFacts) -> None:
    """What the report says, on the sweep's span; an event for each reason, with the first ids that met it."""
    report = facts.report
    span.set_attribute(CANDIDATES.name, report.candidates)
    span.set_attribute(UNSEARCHABLE.name, report.unsearchable)
    span.set_attribute(TRIMMED.name, report.trimmed)
    span.set_attribute("stream_janitor.complete", report.complete)
    span.set_attribute("stream_janitor.settle_mode", report.settle_mode)
    for outcome, count in facts.outcomes.items():
        span.set_attribute(f"{SETTLED.name}.{outcome}", count)
    if facts.standing is not None:
        for instrument, read in _READ.items():
            value = read(facts.standing)
            if value is not None:
                span.set_attribute(instrument.name, value)
    for reason, named in facts.reasons.items():
        event: Attributes = {"stream_janitor.count": named.count, "stream_janitor.entry_ids": named.entry_ids}
        span.add_event(reason, event)
    if facts.error is not None:
        _mark_failed(span, facts.error, str(facts.error))  # one of ours, which quotes nothing (see errors.py)
