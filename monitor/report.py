"""What a sweep did: the tally that it keeps, and the report that every face prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from monitor.outcomes import Outcome
from monitor.pending import Summary, age_s
from monitor.server_clock import ServerClock
from shared.names import printable
from shared.settings import StreamSettings

if TYPE_CHECKING:
    from monitor.observation import Observation
    from monitor.stream_retention import StreamRetention
    from shared.telemetry import Standing

MOST_IDS_NAMED = 20


NOT_ASKED: Final = "not asked"
"""``index`` in the report of a sweep that ended before it knew anything, what is pending included."""


@dataclass(frozen=True, slots=True)
class Named:
    """The entries that met one fate for one reason: how many, and the first few of their stream ids."""

    count: int
    entry_ids: tuple[str, ...]

    def __str__(self) -> str:
        more = self.count - len(self.entry_ids)
        return f"{self.count} ({', '.join(self.entry_ids)}{f', and {more} more' if more else ''})"


@dataclass(frozen=True, slots=True)
class SweepReport:
    """One sweep over one consumer group. ``candidates`` is always the sum of the outcomes that follow it."""

    stream: str
    group: str
    pending: int
    """How many entries were pending before the sweep."""
    candidates: int
    """Entries idle for at least the minimum idle time that the sweep took up."""
    processed: int
    """Stored in their hash and acknowledged."""
    kept: int
    """ON_CONFLICT=keep: acknowledged, since a hash was there already."""
    superseded: int
    """ON_CONFLICT=newer: acknowledged, since the hash holds a newer entry."""
    requeued: int
    """ACTION=requeue: added to a stream again and acknowledged."""
    handled: int
    """ACTION=handle: the handler is done with it, and it is acknowledged."""
    retried: int
    """Left pending on purpose; ``reasons`` says why. A later sweep takes it again."""
    dead_lettered: int
    """Moved to the dead-letter stream."""
    failed: int
    """Not stored, still pending; ``reasons`` says why."""
    deleted: int
    """Gone from the stream while they were pending: lost before the janitor could help."""
    lost_race: int
    """Someone else took or acknowledged them meanwhile."""
    unknown: int
    """The reply was lost; the next sweep finds out."""
    unsearchable: int
    """Of the stored ones: refused by the index, so no search finds them; the data is in the hash."""
    duration_s: float
    complete: bool
    """The whole list was looked through; if not, the next sweep goes on where this one stopped."""
    oldest_pending_age_s: float | None
    """Server's now minus the time in the smallest pending id, before the sweep; None if nothing was pending."""
    settle_mode: str
    """script or gather; none if there was nothing to settle."""
    index: str
    """``ok``, or what is wrong with the search index."""
    consumers_removed: int = 0
    reasons: Mapping[str, Named] = field(default_factory=dict)
    """``outcome: reason`` → the entries that met it."""
    error: str | None = None
    """What ended the sweep early."""
    rate_limited: bool = False
    """RECOVERY_RATE_LIMIT made entries wait; ``complete`` says whether any still do."""
    waiting: int = 0
    """Entries that RETRY_BACKOFF, or a handler, keeps for later though they are idle for the minimum idle time: no candidates."""
    observed: Observation | None = None
    """ACTION=observe: what is there, and what each action would do with it."""
    trimmed: int = 0
    """RETAIN_SEC: entries that every group has finished with, and that are gone now."""
    stream_length: int | None = None
    """Entries in the stream at the end; None: neither RETAIN_SEC nor telemetry asks, or this user may not (XLEN)."""
    retention: str | None = None
    """RETAIN_SEC: what keeps entries that are old enough; None: nothing does, or it is off."""
    dead_letters_trimmed: int = 0
    """DEAD_LETTER_RETAIN_SEC: dead letters that were thrown away."""
    server_clock: str | None = None
    """What is wrong with the server's clock, in words: it was set back, so no age is known and nothing counts as abandoned."""

    @property
    def is_quiet(self) -> bool:
        """Nothing happened that anybody has to read about."""
        settled_index = self.index in ("ok", "off")
        has_acted = self.candidates or self.consumers_removed or self.trimmed or self.dead_letters_trimmed
        is_seen = self.observed is not None and self.observed.abandoned
        return not (has_acted or is_seen or self.error or self.server_clock or not settled_index)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for machines."""
        return asdict(self)

    def __str__(self) -> str:
        return "; ".join(self._parts())

    def _parts(self) -> Iterable[str]:
        age = "" if self.oldest_pending_age_s is None else f", oldest {self.oldest_pending_age_s:.0f} s"
        if self.server_clock:
            age = ", age unknown"
        pending = "pending unknown" if self.index == NOT_ASKED else f"{self.pending} pending{age}"
        waiting = f", {self.waiting} waiting" if self.waiting else ""
        yield f"{printable(self.stream)}/{printable(self.group)}: {pending}, {self.candidates} taken up{waiting}"
        if self.observed is not None:
            yield from self.observed.parts()
        counts = [f"{getattr(self, name)} {name.replace('_', ' ')}" for name in _COUNTS if getattr(self, name)]
        if counts:
            yield ", ".join(counts)
        mode = "" if self.settle_mode == "none" else f" by {self.settle_mode}"
        yield f"{self.duration_s:.2f} s{mode}" + ("" if self.complete else f", not complete{self._why_not_complete}")
        if self.index not in ("ok", "off"):
            yield f"index: {self.index}"
        if self.server_clock:
            yield self.server_clock
        if self.consumers_removed:
            yield f"{self.consumers_removed} dead consumers removed"
        yield from self._retention_parts()
        for reason, named in self.reasons.items():
            yield f"{reason}: {named}"
        if self.error:
            yield f"error: {self.error}"

    def _retention_parts(self) -> Iterable[str]:
        if self.trimmed:
            length = "" if self.stream_length is None else f", {self.stream_length} left"
            yield f"{self.trimmed} trimmed{length}"
        if self.retention:
            yield f"retention: {self.retention}"
        if self.dead_letters_trimmed:
            yield f"{self.dead_letters_trimmed} dead letters thrown away"

    @property
    def _why_not_complete(self) -> str:
        return " (RECOVERY_RATE_LIMIT)" if self.rate_limited and not self.error else ""


_COUNTS = (*(outcome.value for outcome in Outcome), "unsearchable")


class Tally:
    """Counts outcomes while a sweep runs; the first ids of each reason are kept, the rest only counted."""

    def __init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.unsearchable = 0
        self._named: dict[str, tuple[int, list[str]]] = {}

    @property
    def candidates(self) -> int:
        return sum(self.counts.values())

    def add(self, outcome: Outcome, count: int = 1) -> None:
        self.counts[outcome] += count

    def name(self, outcome: Outcome, reason: str, entry_id: bytes) -> None:
        """Count one entry and note its id and why."""
        self.add(outcome)
        self._note(f"{outcome.value}: {reason}" if reason else outcome.value, entry_id)

    def name_all(self, outcome: Outcome, reason: str, entry_ids: Iterable[bytes]) -> None:
        for entry_id in entry_ids:
            self.name(outcome, reason, entry_id)

    def name_unsearchable(self, reason: str, entry_id: bytes) -> None:
        """Count a stored entry that the index refused: beside its outcome, not instead of it."""
        self.unsearchable += 1
        self._note(f"unsearchable: {reason}" if reason else "unsearchable", entry_id)

    def take_over(self, other: Tally) -> None:
        """Add what ``other`` counted and named."""
        self.counts.update(other.counts)
        self.unsearchable += other.unsearchable
        for label, (more, more_ids) in other._named.items():
            count, ids = self._named.get(label, (0, []))
            self._named[label] = (count + more, (ids + more_ids)[:MOST_IDS_NAMED])

    def _note(self, label: str, entry_id: bytes) -> None:
        count, ids = self._named.get(label, (0, []))
        if len(ids) < MOST_IDS_NAMED:
            ids.append(entry_id.decode("ascii", "replace"))
        self._named[label] = (count + 1, ids)

    def reasons(self) -> dict[str, Named]:
        return {label: Named(count, tuple(ids)) for label, (count, ids) in self._named.items()}


def retained_fields(retention: StreamRetention | None, standing: Standing | None) -> dict[str, Any]:
    """The report's fields about retention, by name."""
    length = None if standing is None else standing.stream_length
    stream = None if retention is None else retention.stream
    dead_letters = None if retention is None else retention.dead_letters
    if stream is not None and stream.stream_length is not None:
        length = stream.stream_length
    return {
        "trimmed": 0 if stream is None else stream.trimmed,
        "stream_length": length,
        "retention": None if stream is None else stream.line,
        "dead_letters_trimmed": 0 if dead_letters is None else dead_letters.trimmed,
    }


def report_of(
    settings: StreamSettings, summary: Summary, now_ms: int, tally: Tally, clock: ServerClock, **more: Any
) -> SweepReport:
    """The report of a sweep, or of a dry run, over a group with that ``summary`` at the server's ``now_ms``.

    ``more``: the other fields of ``SweepReport``, by name.
    """
    counts: dict[str, Any] = {outcome.value: tally.counts[outcome] for outcome in Outcome}
    return SweepReport(
        stream=settings.stream,
        group=settings.group,
        pending=summary.total,
        candidates=tally.candidates,
        unsearchable=tally.unsearchable,
        oldest_pending_age_s=clock.age_s(age_s(summary.smallest_id, now_ms)),
        server_clock=clock.trouble,
        reasons=tally.reasons(),
        **counts,
        **more,
    )
