"""What is going on in a run, as the screen shows it: kept by the run, read by the screen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from demo.archive import Archive
from demo.example import Example
from demo.witness import Witness

BROUGHT_BACK = ("processed", "kept", "requeued")


@dataclass(frozen=True, slots=True)
class Tick:
    """One run of the timer function, as the timer host told it. `due` is seconds since the epoch."""

    number: int
    due: float
    took_s: float
    error: str | None
    reports: tuple[dict[str, Any], ...]
    remarks: tuple[str, ...]
    janitor: str = ""

    @classmethod
    def from_facts(cls, facts: dict[str, Any], janitor: str) -> Tick:
        return cls(
            number=int(facts["tick"]),
            due=float(facts["due"]),
            took_s=float(facts["took_s"]),
            error=facts.get("error"),
            reports=tuple(facts.get("reports", ())),
            remarks=tuple(facts.get("remarks", ())),
            janitor=janitor,
        )

    @property
    def lines(self) -> list[str]:
        """What a person reads of this tick."""
        lines = [str(report["line"]) for report in self.reports] + list(self.remarks)
        if self.error:
            lines.append(f"failed: {self.error}")
        return lines or ["nothing pending"]

    def count(self, *outcomes: str) -> int:
        return sum(int(report.get(outcome) or 0) for report in self.reports for outcome in outcomes)

    def named(self, label: str) -> list[str]:
        """The ids of the entries that the reports name under `label`, whatever the reason."""
        reasons = [reason for report in self.reports for reason in report.get("reasons", {}).items()]
        return [entry_id for told, named in reasons if told.startswith(label) for entry_id in named["entry_ids"]]


@dataclass(slots=True)
class Consumer:
    """One consumer of the group. `stored` and `failed` are its own words; the rest is the server's."""

    name: str
    state: str = "starting"
    stored: int = 0
    failed: int = 0
    pending: int = 0
    oldest_idle_ms: int = 0


@dataclass(slots=True)
class Scene:
    """Everything that is known at this moment."""

    example: Example
    address: str
    planned_s: float
    started: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    produced: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """How many items of each kind the producer made."""
    sums: dict[str, int] = field(default_factory=dict)
    """What the producer added up."""
    named: list[tuple[str, str]] = field(default_factory=list)
    """Kind and entry id of those that it named."""
    witness: Witness | None = None
    archive: Archive | None = None
    """What a second group read, where the stream is trimmed on the way."""
    unread: int = 0
    consumers: dict[str, Consumer] = field(default_factory=dict)
    ticks: list[Tick] = field(default_factory=list)
    next_due: float | None = None
    events: list[tuple[float, str]] = field(default_factory=list)
    outage: tuple[float, float] | None = None
    """From when to when, in seconds since the epoch, a cluster had lost a master."""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def pending(self) -> int:
        return sum(consumer.pending for consumer in self.consumers.values())

    @property
    def settled(self) -> int:
        """Entries that were acknowledged: neither pending nor still unread."""
        return max(0, self.produced - self.unread - self.pending)

    @property
    def recovered(self) -> int:
        """Entries that the janitors brought back, by their own reports."""
        return sum(tick.count(*BROUGHT_BACK) for tick in self.ticks)

    @property
    def trimmed(self) -> int:
        """Entries that the janitors trimmed, by their own reports."""
        return sum(tick.count("trimmed") for tick in self.ticks)

    @property
    def dead_lettered(self) -> int:
        return sum(tick.count("dead_lettered") for tick in self.ticks)

    def recovered_by(self, janitor: str) -> int:
        return sum(tick.count(*BROUGHT_BACK) for tick in self.ticks if tick.janitor == janitor)

    def named_of(self, kind: str) -> set[str]:
        """The ids of the entries of this kind that the producer named."""
        return {entry_id for named, entry_id in self.named if named == kind}

    def failed_ticks(self, in_outage: bool) -> int:
        """How many ticks failed while the cluster had lost a master, or at other times.

        What a tick could not do in an outage the next ones do.
        """
        start, end = self.outage or (0.0, 0.0)
        failed = [tick for tick in self.ticks if tick.error]
        return sum((tick.due < end and tick.due + tick.took_s > start) == in_outage for tick in failed)

    def consumer(self, name: str) -> Consumer:
        return self.consumers.setdefault(name, Consumer(name))

    def happened(self, text: str) -> None:
        self.events.append((self.elapsed_s, text))
