"""``dead-letters redrive``: letters sent on again, into the store or back into their stream."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from redis.exceptions import RedisError

from monitor.cli.call import Call, Stop, command, stop_on_signals
from monitor.cli.dry_run import forecasts
from monitor.cli.escape import harmless, shortened
from monitor.cli.exits import INTERRUPTED, UsageProblem
from monitor.cli.selection import Wanted, chosen, dead_letters, dead_stream_of, selecting
from monitor.cli.words import per_second
from monitor.dead_letter import DeadLetter
from monitor.outcomes import BY_WIRE, WITH_HASH
from monitor.redrive import ARRIVED, Redrive, Redriven, Selection
from monitor.report import MOST_IDS_NAMED
from shared.errors import RedisRefused
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

GROUP_SIZE = 64
"""Letters on their way at a time."""
AT_LEAST_ONCE = (
    "each letter leaves {dead} only after it arrived; if this is cut off, run it again: what had arrived and not left "
    "arrives a second time (at least once)"
)
_FORESEEN = {outcome: word.decode() for word, outcome in BY_WIRE.items() if outcome in WITH_HASH}


@dataclass(slots=True)
class Summed:
    """What a redrive did, for its summary."""

    outcomes: Counter[str] = field(default_factory=Counter)
    stays: dict[str, list[str]] = field(default_factory=dict)
    """Why a letter stayed → ids, the first few of them."""
    stays_counted: Counter[str] = field(default_factory=Counter)
    complete: bool = False

    def add(self, result: Redriven) -> None:
        self.outcomes[result.outcome] += 1
        if result.outcome not in ARRIVED:
            self.stays_counted[result.reason] += 1
            ids = self.stays.setdefault(result.reason, [])
            if len(ids) < MOST_IDS_NAMED:
                ids.append(result.letter.letter_id.decode())

    @property
    def arrived(self) -> int:
        return sum(self.outcomes[outcome] for outcome in ARRIVED)


@command(dead_letters, "redrive")
@click.option("--to", type=click.Choice(["store", "stream"]), default="store", show_default=True)
@click.option("--rate", metavar="N/s", help="At most so many letters a second.")
@click.option("--yes", is_flag=True, help="With --to stream: other groups may see them again.")
@click.option("--dry-run", is_flag=True, help="Read only, and tell what would happen.")
@selecting
async def redrive(call: Call, to: str, rate: str | None, yes: bool, dry_run: bool, wanted: Wanted) -> int:
    """Send dead letters on again: into the store (the default), or back into the stream that they came from.

    A letter leaves the dead-letter stream only after it arrived: at least once. A run that was cut off is gone on with by
    running it again. ON_CONFLICT judges by the id of the original entry.
    """
    per_s = _rate(rate)
    async with call.link() as link:
        with stop_on_signals() as stop, call.out.bar() as bar:

            async def one(settings: StreamSettings) -> None:
                dead = dead_stream_of(settings)
                if to == "stream":
                    await _agree_to_stream(call, link, settings, yes or dry_run)
                selection = await wanted.resolved(link, dead)
                if not dry_run:
                    call.out.note(AT_LEAST_ONCE.format(dead=dead))
                summed = Summed()
                task = bar.add_task("redrive", total=await link.call("XLEN", dead))
                send = _rehearsed(link, settings, to) if dry_run else Redrive(link, settings, to == "stream").take
                pace = Pace(per_s, stop)
                try:
                    async for group in _groups(link, settings, selection, per_s):
                        await pace.wait(len(group))
                        if stop:
                            break
                        for result in await send(group):
                            summed.add(result)
                        bar.update(task, advance=len(group))
                    summed.complete = not stop
                finally:
                    bar.stop()
                    _print_summary(call, settings, summed, to, dry_run)

            code = await call.each_stream(one)
    if stop:
        call.out.note("interrupted: run it again to go on")
        return code or INTERRUPTED
    return code


def _rate(text: str | None) -> float | None:
    try:
        return None if text is None else per_second(text)
    except ValueError as error:
        raise UsageProblem(f"--rate: {error}") from None


async def _agree_to_stream(call: Call, link: RedisLink, settings: StreamSettings, yes: bool) -> None:
    """Name the groups that will see the letters again; without a yes, go no further."""
    if settings.on_conflict == "newer":
        raise UsageProblem(
            "--to stream does not go with ON_CONFLICT=newer: the new ids would make old entries win; use --to store"
        )
    try:
        rows = await link.call("XINFO", "GROUPS", settings.stream)
        names = [row[b"name"] if isinstance(row, dict) else row[1] for row in rows]
        if settings.group.encode() not in names:
            raise RedisRefused(f"{settings.stream} has no group {settings.group!r}: nobody would read them there")
        others = ", ".join(shortened(name, 60) for name in sorted(names) if name != settings.group.encode())
    except RedisError:
        others = "all that there are (no right to XINFO GROUPS, which names them)"
    told = f"they go to {settings.stream} under new ids; other groups than {settings.group} see them again: {others or 'none'}"
    if not yes:
        raise UsageProblem(f"{told}; say --yes to that")
    call.out.note(told)


def _rehearsed(link: RedisLink, settings: StreamSettings, to: str) -> Callable[[Sequence[DeadLetter]], Any]:
    async def tell(letters: Sequence[DeadLetter]) -> list[Redriven]:
        if to == "stream":
            return [Redriven(letter, "sent") for letter in letters]
        expected = await forecasts(
            link, settings, [letter.entry_id for letter in letters], [letter.fields for letter in letters]
        )
        return [
            Redriven(letter, _FORESEEN.get(one.outcome, "stays") if one.outcome else "stays", one.reason)
            for letter, one in zip(letters, expected, strict=True)
        ]

    return tell


async def _groups(
    link: RedisLink, settings: StreamSettings, selection: Selection, per_s: float | None
) -> AsyncIterator[list[DeadLetter]]:
    """The chosen letters in groups as large as may be on their way at a time."""
    size = GROUP_SIZE if per_s is None else max(1, min(GROUP_SIZE, int(per_s / 10)))
    async for page in chosen(link, settings, selection):
        letters = [letter for letter in page if isinstance(letter, DeadLetter) and letter.is_of(settings)]
        for first in range(0, len(letters), size):
            yield letters[first : first + size]


class Pace:
    """Lets so many letters a second through, evenly."""

    def __init__(self, per_s: float | None, stop: Stop) -> None:
        self._per_s = per_s
        self._stop = stop
        self._next_s = time.monotonic()

    async def wait(self, count: int) -> None:
        if self._per_s is None:
            await asyncio.sleep(0)
            return
        await self._stop.sleep(self._next_s - time.monotonic())
        self._next_s = max(self._next_s, time.monotonic()) + count / self._per_s


def _print_summary(call: Call, settings: StreamSettings, summed: Summed, to: str, dry_run: bool) -> None:
    stays = summed.outcomes["stays"]
    if call.as_json:
        call.out.record(
            "redrive", stream=settings.stream, group=settings.group, dead_letter_stream=settings.dead_letter_stream,
            to=to, dry_run=dry_run, complete=summed.complete, arrived=summed.arrived, stays=stays,
            **{outcome: summed.outcomes[outcome] for outcome in ARRIVED},
            reasons={reason: {"count": summed.stays_counted[reason], "letter_ids": ids} for reason, ids in summed.stays.items()},
        )  # fmt: skip
        return
    counts = ", ".join(f"{summed.outcomes[outcome]:,} {outcome}" for outcome in ARRIVED if summed.outcomes[outcome])
    text = f"{'dry run: ' if dry_run else ''}{settings.dead_letter_stream}: {summed.arrived:,} redriven"
    call.out.line(harmless(f"{text}{f' ({counts})' if counts else ''}, {stays:,} stay"))
    for reason, ids in summed.stays.items():
        more = summed.stays_counted[reason] - len(ids)
        call.out.line(
            f"  {reason}: {summed.stays_counted[reason]:,} ({', '.join(ids)}{f', and {more:,} more' if more else ''})"
        )
