"""What has to hold after every fault, looked up in the server and held against all that is known of the world."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from monitor.dead_letter import PROVENANCE
from monitor.outcomes import Outcome
from monitor.report import SweepReport
from tests.faults.worlds import CRASHED, ENTRY_ID_FIELD, GROUP, YOUNG_MS, Kind, Seeded, World

MOST_KEYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the pending entries list."""

    consumer: bytes
    idle_ms: int
    deliveries: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The server's side of a world at one moment."""

    pending: dict[bytes, Row]
    letters: dict[bytes, list[tuple[bytes, ...]]]
    """Source entry id → the fields of each dead letter about it."""
    hashes: dict[bytes, dict[bytes, bytes]]


def look(world: World) -> Seen:
    rows, letters = world.must(
        ("XPENDING", world.stream, GROUP, "-", "+", 1_000_000), ("XRANGE", world.dead_stream, "-", "+")
    )
    pending = {row[0]: Row(row[1], row[2], row[3]) for row in rows}
    keys = sorted({world.key(entry) for entry in world.entries} | set(world.existing))
    hashes: dict[bytes, dict[bytes, bytes]] = {}
    for at in range(0, len(keys), MOST_KEYS_AT_ONCE):
        some = keys[at : at + MOST_KEYS_AT_ONCE]
        for key, reply in zip(some, world.run(*(("HGETALL", key) for key in some)), strict=True):
            if isinstance(reply, (list, dict)) and reply:  # the latter where it comes by RESP3
                hashes[key] = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return Seen(pending, _by_source(letters), hashes)


def _by_source(letters: list[Any]) -> dict[bytes, list[tuple[bytes, ...]]]:
    by_source = defaultdict(list)
    head = 2 * len(PROVENANCE)
    for _, pairs in letters:
        assert tuple(name.decode() for name in pairs[:head:2]) == PROVENANCE, pairs[:head]
        by_source[pairs[2 * PROVENANCE.index("entry_id") + 1]].append(tuple(pairs[head:]))
    return dict(by_source)


def violations(world: World, seen: Seen) -> list[str]:
    """Every broken promise, in words; empty if all hold."""
    return [
        *_lost(world, seen),
        *_wrong_hashes(world, seen),
        *_wrong_letters(world, seen),
        *_wrong_rows(world, seen),
        *_wrong_counts(world, seen),
    ]


def undrained(world: World, seen: Seen) -> list[str]:
    """What a clean sweep should have settled and has not."""
    found = [*violations(world, seen)]
    for entry in world.entries:
        if entry.kind is Kind.YOUNG:
            if entry.entry_id not in seen.pending:
                found.append(f"{_name(entry)}: not pending any more")
        elif (
            entry.kind is Kind.GONE
            and entry.entry_id in seen.pending
            and seen.pending[entry.entry_id].consumer != CRASHED
        ):
            continue  # claimed before it was deleted, so young until the minimum idle time is over
        elif entry.entry_id in seen.pending:
            found.append(f"{_name(entry)}: still pending after a clean sweep")
        elif entry.kind.is_at_fault and entry.entry_id not in seen.letters:
            found.append(f"{_name(entry)}: not in the dead-letter stream after a clean sweep")
    return found


def _name(entry: Seeded) -> str:
    return f"{entry.entry_id.decode()} ({entry.kind.value})"


def _rivals(world: World) -> dict[bytes, list[Seeded]]:
    rivals = defaultdict(list)
    for entry in world.entries:
        if not entry.kind.is_at_fault:
            rivals[world.key(entry)].append(entry)
    return rivals


def _lost(world: World, seen: Seen) -> Iterator[str]:
    rivals = _rivals(world)
    for entry in world.entries:
        if entry.entry_id in seen.pending or entry.kind is Kind.GONE:
            continue
        if entry.kind.is_at_fault:
            if entry.entry_id not in seen.letters:
                yield f"{_name(entry)}: acknowledged, and not in the dead-letter stream"
        elif not _is_stored(world, seen, entry, rivals[world.key(entry)]):
            yield f"{_name(entry)}: acknowledged, and in no complete hash"


def _is_stored(world: World, seen: Seen, entry: Seeded, rivals: list[Seeded]) -> bool:
    held = seen.hashes.get(world.key(entry))
    if held is None:
        return False
    if world.on_conflict == "keep":
        return True  # what may be there at all is held by _wrong_hashes
    return any(_holds(world, held, other) for other in rivals if other.order >= entry.order)


def _holds(world: World, held: dict[bytes, bytes], entry: Seeded) -> bool:
    wanted = entry.content
    if world.on_conflict == "newer":
        wanted = {**wanted, ENTRY_ID_FIELD: entry.entry_id}
    return held == wanted


def _wrong_hashes(world: World, seen: Seen) -> Iterator[str]:
    """A hash is one entry whole, or what was there before: never a part, never a mix."""
    rivals = _rivals(world)
    for key, held in seen.hashes.items():
        if held != world.existing.get(key) and not any(_holds(world, held, entry) for entry in rivals[key]):
            yield f"a hash holds no entry whole ({len(held)} fields)"


def _wrong_letters(world: World, seen: Seen) -> Iterator[str]:
    by_id = {entry.entry_id: entry for entry in world.entries}
    for entry_id, letters in seen.letters.items():
        entry = by_id[entry_id]
        if not entry.kind.is_at_fault and entry.kind is not Kind.GONE:
            yield f"{_name(entry)}: in the dead-letter stream through no fault of its own"
        if any(letter != entry.fields for letter in letters):
            yield f"{_name(entry)}: its dead letter is not what it was, byte for byte"


def _wrong_rows(world: World, seen: Seen) -> Iterator[str]:
    for entry in world.entries:
        row = seen.pending.get(entry.entry_id)
        if row is not None and row.deliveries != 1:
            yield f"{_name(entry)}: its delivery count changed to {row.deliveries}"
        if entry.kind is Kind.YOUNG and (row is None or row.consumer != CRASHED or row.idle_ms < YOUNG_MS):
            yield f"{_name(entry)}: younger than the minimum idle time, and taken all the same"


def _wrong_counts(world: World, seen: Seen) -> Iterator[str]:
    for report in world.reports:
        if report.candidates != sum_of_outcomes(report):
            yield f"candidates are not the sum of their outcomes: {report}"
    if world.has_untold_sweeps:
        return
    gone = [entry for entry in world.entries if entry.kind is Kind.GONE and entry.entry_id not in seen.pending]
    # Where the reply was lost its count was too; the report says unknown then.
    told = sum(report.deleted + report.unknown for report in world.reports)
    if len(gone) > told:
        yield f"{len(gone)} entries were deleted while pending, {told} are counted"


def sum_of_outcomes(report: SweepReport) -> int:
    return sum(int(getattr(report, outcome.value)) for outcome in Outcome)
