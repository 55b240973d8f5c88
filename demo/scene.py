"""What is going on in a run, as the screen shows it: kept by the run, read by the screen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tick:
    """One run of the timer function, as the timer host told it. `due` is seconds since the epoch."""

    number: int
    due: float
    took_s: float
    error: str | None
    reports: tuple[dict[str, Any], ...]
    remarks: tuple[str, ...]

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Tick:
        return cls(
            number=int(facts["tick"]),
            due=float(facts["due"]),
            took_s=float(facts["took_s"]),
            error=facts.get("error"),
            reports=tuple(facts.get("reports", ())),
            remarks=tuple(facts.get("remarks", ())),
        )

    @property
    def lines(self) -> list[str]:
        """What a person reads of this tick."""
        lines = [str(report["line"]) for report in self.reports] + list(self.remarks)
        if self.error:
            lines.append(f"failed: {self.error}")
        return lines or ["nothing pending"]

    def count(self, outcome: str) -> int:
        return sum(int(report.get(outcome) or 0) for report in self.reports)


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

    address: str
    planned_s: float
    started: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    produced: int = 0
    unread: int = 0
    consumers: dict[str, Consumer] = field(default_factory=dict)
    ticks: list[Tick] = field(default_factory=list)
    next_due: float | None = None
    events: list[tuple[float, str]] = field(default_factory=list)

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
        """Entries that the janitor brought back, by its own reports."""
        return sum(tick.count("processed") for tick in self.ticks)

    def consumer(self, name: str) -> Consumer:
        return self.consumers.setdefault(name, Consumer(name))

    def happened(self, text: str) -> None:
        self.events.append((self.elapsed_s, text))
