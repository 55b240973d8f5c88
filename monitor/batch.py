"""A batch of abandoned entries on its way through an action: what goes in, what comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.report import Tally
from shared.telemetry import TraceContext


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that could not be stored because it is invalid; claimed, and still pending."""

    entry: PendingEntry
    fault: str
    """One of the faults of outcomes.py, or ``error:CODE`` for an error that nobody foresaw."""


@dataclass(slots=True)
class Batch:
    """What became of a batch: the first ``taken`` of its entries were settled, and each has one outcome or is refused."""

    taken: int
    counts: Counter[Outcome] = field(default_factory=Counter)
    deleted: list[bytes] = field(default_factory=list)
    lost: int = 0
    refused: list[Refused] = field(default_factory=list)
    named: list[tuple[Outcome, str, bytes]] = field(default_factory=list)
    """Entries whose outcome has a reason to be named: outcome, reason, id."""
    unconfirmed: list[bytes] = field(default_factory=list)
    """Stored, but too few replicas confirmed it: left pending."""
    lacks_replicas: bool = False
    """Too few replicas confirmed something that ``counted`` has."""
    unconfirmed_what: str = "the hash"
    """What they did not confirm."""
    server_refusal: str | None = None
    """The code with which the server refused the entry behind the last that was settled."""
    refusal: Exception | None = None
    """The error with that code."""
    refused_by_server: list[bytes] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    """The ids of the entries whose hashes were written, so that the index can be asked about them."""
    traces: list[TraceContext] = field(default_factory=list)
    """The trace contexts that entries carried, if spans are sent."""
    more_traces: int = 0
    """How many more entries carried one, which a script left where it was."""
    wait_s: float = 0.0
    """How long the rate limit grants nothing for the entries behind ``taken``; 0: it did not end the batch."""
    recovered: list[bytes] = field(default_factory=list)
    """The keys of the hashes that were written, if RECOVERED_CHANNEL wants them."""
    counted: Tally = field(default_factory=Tally)
    """What was counted by whoever did it."""

    def tally(self) -> Tally:
        """Each of its entries counted once, but for those in ``refused``: whether they are dead-lettered is not known yet."""
        tally = Tally()
        tally.take_over(self.counted)
        for outcome, count in self.counts.items():
            tally.add(outcome, count)
        tally.add(Outcome.LOST_RACE, self.lost)
        for outcome, reason, entry_id in self.named:
            tally.name(outcome, reason, entry_id)
        tally.name_all(Outcome.DELETED, "gone from the stream while pending", self.deleted)
        tally.name_all(Outcome.FAILED, f"too few replicas confirmed {self.unconfirmed_what}", self.unconfirmed)
        tally.name_all(Outcome.FAILED, f"refused by the server ({self.server_refusal})", self.refused_by_server)
        return tally


class Settler(Protocol):
    """Settles batches of one stream's entries; ``batch_size`` says how many entries it wants at a time."""

    name: str
    """What the report's ``settle_mode`` says."""
    concurrency: int
    """How many batches are in flight at a server at once, however many of its streams are being swept."""
    keeps_whole_batches: bool
    """Whether ``batch_size`` entries come together whenever they are there; else workers share what there is."""

    @property
    def batch_size(self) -> int: ...

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        """Settle the first of ``entries``; safe to repeat at any point.

        Raises:
            ScriptNotAllowed: this way is not to be had here; nothing was settled.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may be settled or not.
            redis.exceptions.ResponseError: the server refused; none was settled.
        """


class ScriptNotAllowed(Exception):
    """This server, user or cluster does not let a script settle; its text says why."""
