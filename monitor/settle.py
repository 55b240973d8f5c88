"""Settling: what becomes of a batch of abandoned entries, and the way it is done inside Redis.

Two ways, one interface: ``ScriptSettle`` here has settle.lua claim, store and acknowledge where the entries lie;
``GatherSettle`` (gather.py) carries them to us and back. ``choose`` asks the server which one it allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from redis.exceptions import ResponseError

from monitor.pending import PendingEntry
from monitor.rate import rate_key
from monitor.report import Outcome
from monitor.scripts import Script, probe_script, settle_script
from shared.redis_client import Argument, RedisLink
from shared.retry import code_of, missing_right
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry, TraceContext


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that could not be stored through its own fault; claimed, and still pending."""

    entry: PendingEntry
    fault: str
    """One of decide.py's faults, or ``error:CODE`` for an error that nobody foresaw."""


@dataclass(slots=True)
class Batch:
    """What became of a batch: the first ``taken`` of its entries were taken up, and each has one outcome or is refused."""

    taken: int
    counts: Counter[Outcome] = field(default_factory=Counter)
    deleted: list[bytes] = field(default_factory=list)
    lost: int = 0
    refused: list[Refused] = field(default_factory=list)
    unconfirmed: list[bytes] = field(default_factory=list)
    """Stored, but too few replicas confirmed it: left pending."""
    server_refusal: str | None = None
    """The code with which the server refused the entry behind the last that was settled."""
    refusal: Exception | None = None
    """The error with that code."""
    refused_by_server: list[bytes] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    """The ids of the entries whose hashes were written, so that the index can be asked about them."""
    traces: list[TraceContext] = field(default_factory=list)
    """The trace contexts that entries carried, if spans are sent; at most MOST_LINKS."""
    more_traces: int = 0
    """How many more entries carried one."""
    wait_s: float = 0.0
    """How long the rate limit grants nothing for the entries behind ``taken``; 0: it did not end the batch."""
    recovered: list[bytes] = field(default_factory=list)
    """The keys of the hashes that were written, if RECOVERED_CHANNEL is to be told of them."""


class Settle(Protocol):
    """Claims, stores and acknowledges; ``batch_size`` says how many entries it wants at a time."""

    name: str
    batch_size: int
    concurrency: int
    """How many batches are under way at once, also if several streams of the same server are being swept."""

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        """Settle the first of ``entries``; safe to repeat at any point.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may be settled or not.
            redis.exceptions.ResponseError: the server refused; none was settled.
        """


class ScriptNotAllowed(Exception):
    """This server, user or cluster does not let a script settle; gather can."""


_ACKNOWLEDGED: Final = {b"kept": Outcome.KEPT, b"superseded": Outcome.SUPERSEDED}
"""What settle.lua calls the entries that it acknowledged without storing them."""
SCRIPT_CODES_FOR_GATHER: Final = ("CROSSSLOT", "NOPERM", "MOVED", "ASK")


class ScriptSettle:
    """Settles inside Redis by settle.lua: nothing of an entry leaves the server, and one run stays under 5 ms."""

    name = "script"
    # The second run travels while the first one works; the server has one thread, so a third would only wait.
    concurrency = 2
    RUN_MS: Final = 3.0
    SMALLEST, LARGEST = 16, 512

    def __init__(self, link: RedisLink, settings: StreamSettings, telemetry: GroupTelemetry = SILENT_GROUP) -> None:
        self.batch_size = 128
        self._link = link
        self._telemetry = telemetry
        self._script: Script = settle_script()
        self._keys: tuple[Argument, ...] = (settings.stream,)
        if settings.rate_limit:
            self._keys += (rate_key(settings),)
            # Ids of more than a second's entries would travel for nothing.
            self.LARGEST = min(self.LARGEST, settings.rate_limit)
            self.batch_size = min(self.batch_size, settings.rate_limit)
        self._head: tuple[Argument, ...] = (
            settings.group,
            settings.consumer,
            settings.min_idle_ms,
            settings.hash_prefix,
            settings.on_conflict,
            self.RUN_MS,
            telemetry.most_links,
            "keep" if settings.keep_trace_fields else "drop",
            settings.rate_limit,
            "" if settings.recovered_channel is None else "tell",
            len(settings.id_fields),
            *settings.id_fields,
        )

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        ids = [entry.entry_id for entry in entries]
        try:
            async with self._link.turn_at(self._keys[0], self.concurrency):
                with self._telemetry.settle(len(ids)):
                    reply = await self._script.run(self._link, self._keys, (*self._head, b" ".join(ids)))
        except ResponseError as error:
            if code_of(error) in SCRIPT_CODES_FOR_GATHER or _is_unknown_to_old_server(error):
                raise ScriptNotAllowed(_reason(error)) from None
            raise
        batch = self._read(entries, *reply)
        if not batch.wait_s:
            self._adapt(len(entries), batch.taken)
        return batch

    def _read(
        self,
        entries: Sequence[PendingEntry],
        taken: int,
        named: list[bytes],
        traces: list[bytes],
        more_traces: int,
        wait_ms: int,
        stored_keys: list[bytes],
    ) -> Batch:
        batch = Batch(taken, wait_s=wait_ms / 1000, recovered=stored_keys)
        batch.traces, batch.more_traces = list(zip(traces[::2], traces[1::2], strict=True)), more_traces
        outcomes = dict(zip(named[::2], named[1::2], strict=True))
        batch.stored = [entry.entry_id for entry in entries[:taken] if entry.entry_id not in outcomes]
        batch.counts[Outcome.PROCESSED] = len(batch.stored)
        rows = {entry.entry_id: entry for entry in entries[:taken]} if outcomes else {}
        for entry_id, outcome in outcomes.items():
            if outcome in _ACKNOWLEDGED:
                batch.counts[_ACKNOWLEDGED[outcome]] += 1
            elif outcome == b"gone":
                batch.deleted.append(entry_id)
            elif outcome == b"lost":
                batch.lost += 1
            else:
                batch.refused.append(Refused(rows[entry_id], outcome.decode()))
        return batch

    def _adapt(self, sent: int, taken: int) -> None:
        """Send what one run gets through, and a little more: ids behind its end travel for nothing."""
        if taken < sent:
            self.batch_size = max(self.SMALLEST, taken + 8)
        elif sent == self.batch_size:
            self.batch_size = min(self.LARGEST, self.batch_size + self.batch_size // 4)


def _is_unknown_to_old_server(error: ResponseError) -> bool:
    """Below 7.0 the shebang line is a compile error."""
    return "compiling script" in str(error)


def _reason(error: ResponseError) -> str:
    code = code_of(error)
    return f"the Redis user lacks {missing_right(error)}" if code == "NOPERM" else code


async def script_is_allowed(link: RedisLink, settings: StreamSettings) -> str | None:
    """None if a script may settle this stream; else the reason why not. Writes nothing.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
    """
    keys = [f"{settings.hash_prefix}probe-{number}" for number in range(3)]
    try:
        answer: bytes = await probe_script().run(link, (settings.stream,), (settings.group, *keys))
    except ResponseError as error:
        return "Redis is older than 7.0" if _is_unknown_to_old_server(error) else _reason(error)
    return None if answer == b"OK" else answer.decode()
