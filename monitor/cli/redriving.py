"""``dead-letters redrive``: letters sent on again, into the store or back into their stream."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click
from redis.exceptions import RedisError

from monitor.cli.call import Call, Stop, command, stop_on_signals
from monitor.cli.escape import harmless, shortened
from monitor.cli.exits import FAILED, INTERRUPTED, UsageProblem
from monitor.cli.selection import Wanted, chosen, dead_letters, dead_stream_of, selecting
from monitor.cli.words import per_second
from monitor.dead_letter import DeadLetter
from monitor.forecast import would_store
from monitor.groups import groups_if_any
from monitor.hashes import require_json
from monitor.outcomes import BY_WIRE, WITH_HASH
from monitor.redrive import ARRIVED, DESTINATIONS, Mend, Redrive, Redriven, Selection, mended
from monitor.report import MOST_IDS_NAMED
from shared.errors import RedisRefused
from shared.redis_client import RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings

GROUP_SIZE = 64
"""Letters on their way at a time."""
AT_LEAST_ONCE = (
    "each letter leaves {dead} only after it arrived; if this is cut off, run it again: what had arrived and not left "
    "arrives a second time (at least once)"
)
ARRIVES_AS: Final = {"stream": "sent", "handler": "handled"}
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
@click.option(
    "--to",
    type=click.Choice(["store", "stream", "handler"]),
    help="Where to; by default where the stream's ACTION goes.",
)
@click.option(
    "--set",
    "mends",
    metavar="NAME=VALUE",
    multiple=True,
    help="Give each a field; NAME=@entry: the id of the entry that it was (a value's own first @ is doubled). May be repeated.",
)
@click.option("--rate", metavar="N/s", help="At most so many letters a second.")
@click.option("--yes", is_flag=True, help="With --to stream: other groups may see them again.")
@click.option("--dry-run", is_flag=True, help="Read only, and tell what would happen.")
@selecting
async def redrive(
    call: Call, to: str | None, mends: tuple[str, ...], rate: str | None, yes: bool, dry_run: bool, wanted: Wanted
) -> int:
    """Send dead letters on again: into the store, or back into the stream that they came from.

    A letter leaves the dead-letter stream only after it arrived: at least once. A run that was cut off is gone on with by
    running it again. ON_CONFLICT judges by the id of the original entry. The exit code is 1 if none was moved.
    """
    per_s, changes, moved = _rate(rate), [_mend(text) for text in mends], 0
    async with call.link() as link:
        with stop_on_signals() as stop, call.out.bar() as bar:

            async def one(settings: StreamSettings) -> None:
                nonlocal moved
                dead, where = dead_stream_of(settings), where_to(settings, to)
                destination = DESTINATIONS[where](link, settings)
                if where == "stream":
                    await _agree_to_stream(call, link, settings, yes or dry_run)
                else:
                    await require_json(link, settings)
                selection = await wanted.resolved(link, dead)
                if not dry_run:
                    call.out.note(AT_LEAST_ONCE.format(dead=dead))
                summed = Summed()
                task = bar.add_task("redrive", total=await link.call("XLEN", dead))
                redriving = Redrive(link, settings, destination, changes)
                send = _rehearsed(link, settings, where, changes) if dry_run else redriving.take
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
                    moved += summed.arrived
                    _print_summary(call, settings, summed, where, dry_run)

            code = await call.each_stream(one)
    if stop:
        call.out.note("interrupted: run it again to go on")
        return code or INTERRUPTED
    if not (code or moved or dry_run):
        call.out.note("error: no dead letter was moved", style="red")
        return FAILED
    return code


WHERE_ACTIONS_GO: Final = {"store": "store", "requeue": "stream", "handle": "handler"}


def where_to(settings: StreamSettings, asked: str | None) -> str:
    """What ``--to`` says, or where the stream's action would go.

    Raises:
        UsageProblem: there is no such way.
    """
    where = asked or WHERE_ACTIONS_GO.get(settings.action)
    if where is None:
        raise UsageProblem(f"ACTION={settings.action} sends nothing on: say --to {', --to '.join(DESTINATIONS)}")
    if where not in DESTINATIONS:
        raise UsageProblem(f"--to {where} is not there yet: say --to {', --to '.join(DESTINATIONS)}")
    return where


def _mend(text: str) -> Mend:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageProblem("--set: expected NAME=VALUE, or NAME=@entry for the id of the entry that it was")
    if value == "@entry":
        return Mend(os.fsencode(name), None)
    if value.startswith("@") and not value.startswith("@@"):
        raise UsageProblem(
            "--set: after = an @ has a meaning (@entry): a value that begins with one is written with two"
        )
    return Mend(os.fsencode(name), os.fsencode(value[1:] if value.startswith("@@") else value))


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
    target, is_elsewhere = settings.requeue_target, settings.requeue_target != settings.stream
    try:
        names = [group.name for group in await groups_if_any(link, target)]
        if not names or not (is_elsewhere or settings.group.encode() in names):
            whose = "" if is_elsewhere else f" {settings.group!r}"
            raise RedisRefused(f"{target} has no group{whose}: nobody would read them there")
        others = ", ".join(
            shortened(name, 60) for name in sorted(names) if is_elsewhere or name != settings.group.encode()
        )
    except RedisError as error:
        if code_of(error) != "NOPERM":
            raise
        others = "all that there are (no right to XINFO GROUPS, which names them)"
    if is_elsewhere:
        told = f"they go to {target} under new ids; its groups see them: {others}"
    else:
        told = (
            f"they go to {target} under new ids; other groups than {settings.group} see them again: {others or 'none'}"
        )
    if not yes:
        raise UsageProblem(f"{told}; say --yes to that")
    call.out.note(told)


def _rehearsed(
    link: RedisLink, settings: StreamSettings, where: str, mends: Sequence[Mend]
) -> Callable[[Sequence[DeadLetter]], Any]:
    async def tell(letters: Sequence[DeadLetter]) -> list[Redriven]:
        if where != "store":
            return [Redriven(letter, ARRIVES_AS[where]) for letter in letters]
        letters = [mended(letter, mends) for letter in letters]
        expected = await would_store(
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
