"""``dead-letters ls`` and ``dead-letters show``: a look into the quarantine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from monitor.cli.call import Call, command
from monitor.cli.escape import Encoded, encoded, encoded_pairs, pairs_shown, shortened, shown
from monitor.cli.exits import FAILED, FINE
from monitor.cli.output import columns
from monitor.cli.selection import Wanted, chosen, dead_letters, dead_stream_of, selecting
from monitor.cli.show import print_fields
from monitor.cli.words import moment
from monitor.dead_letter import DeadLetter
from monitor.redrive import NoLetter, pages
from shared.settings import StreamSettings

WIDTHS = (20, 20, 28, -10, 20, 20, 0)
HEADER = ("LETTER", "ENTRY", "REASON", "DELIVERIES", "LAST CONSUMER", "DEAD SINCE", "FIELDS")


@command(dead_letters, "ls")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", default=50, show_default=True)
@selecting
async def ls(call: Call, limit: int, wanted: Wanted) -> int:
    """List dead letters, the oldest first."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            selection, left, foreign = await wanted.resolved(link, dead_stream_of(settings)), limit, 0
            has_header = call.as_json
            async for page in pages(link, dead_stream_of(settings), selection.first, selection.last):
                for letter in page:
                    if isinstance(letter, NoLetter) or not letter.is_of(settings):
                        foreign += 1
                    elif selection.takes(letter) and left:
                        has_header = has_header or _print_header(call)
                        _print_row(call, letter)
                        left -= 1
                call.out.flush()
                if not left:
                    break
            total = await link.call("XLEN", dead_stream_of(settings))
            if not left:
                call.out.note(f"the first {limit:,} (--limit) of {total:,} in {dead_stream_of(settings)}")
            elif not call.as_json:
                call.out.line(f"{limit - left:,} of {total:,} in {dead_stream_of(settings)}")
            if foreign:
                call.out.note(
                    f"{foreign:,} others in {dead_stream_of(settings)} are of another stream or group, or no dead letters"
                )

        return await call.each_stream(one)


def _print_header(call: Call) -> bool:
    call.out.line(columns(HEADER, WIDTHS), style="bold")
    return True


def _print_row(call: Call, letter: DeadLetter) -> None:
    if call.as_json:
        call.out.record("dead_letter", **_record(letter))
        return
    held = pairs_shown(letter.fields, max(call.out.preview_cells - 40, 24))
    cells = (
        letter.letter_id.decode(), letter.entry_id.decode(), shortened(letter.reason, 60), str(letter.deliveries),
        shortened(letter.last_consumer, 40), moment(letter.dead_at_ms), held,
    )  # fmt: skip
    call.out.line(columns(cells, WIDTHS))


def _record(letter: DeadLetter) -> dict[str, Any]:
    names: dict[str, Encoded] = {
        name: encoded(getattr(letter, name))
        for name in ("letter_id", "stream", "group", "entry_id", "reason", "last_consumer")
    }
    numbers = {"deliveries": letter.deliveries, "dead_at_ms": letter.dead_at_ms}
    return {**names, **numbers, "fields": encoded_pairs(letter.fields)}


@command(dead_letters, "summary")
@selecting
async def summary(call: Call, wanted: Wanted) -> int:
    """Count dead letters by reason, with when the oldest and the newest of them died."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            selection = await wanted.resolved(link, dead_stream_of(settings))
            found: dict[bytes, ByReason] = {}
            async for page in chosen(link, settings, selection):
                for letter in page:
                    if isinstance(letter, DeadLetter):
                        found.setdefault(letter.reason, ByReason()).add(letter.dead_at_ms)
            _print_summary(call, settings, found)

        return await call.each_stream(one)


@dataclass(slots=True)
class ByReason:
    """The letters of one reason; times by the server's clock."""

    count: int = 0
    oldest_ms: int = 2**63
    newest_ms: int = 0

    def add(self, dead_at_ms: int) -> None:
        self.count += 1
        self.oldest_ms, self.newest_ms = min(self.oldest_ms, dead_at_ms), max(self.newest_ms, dead_at_ms)


def _print_summary(call: Call, settings: StreamSettings, found: Mapping[bytes, ByReason]) -> None:
    dead, total = dead_stream_of(settings), sum(one.count for one in found.values())
    rows = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
    if call.as_json:
        reasons = [
            {
                "reason": encoded(reason),
                "count": one.count,
                "oldest_dead_at_ms": one.oldest_ms,
                "newest_dead_at_ms": one.newest_ms,
            }
            for reason, one in rows
        ]
        named = {"stream": settings.stream, "group": settings.group, "dead_letter_stream": dead}
        call.out.record("dead_letter_summary", **named, total=total, reasons=reasons)
        return
    call.out.line(f"{dead}: {total:,} of {settings.stream} / {settings.group}", style="bold")
    for reason, one in rows:
        cells = (f"{one.count:,}", shortened(reason, 60), moment(one.oldest_ms), moment(one.newest_ms))
        call.out.line(columns(cells, (-9, 40, 20, 20)))


@command(dead_letters, "export")
@selecting
async def export(call: Call, wanted: Wanted) -> int:
    """Print dead letters as NDJSON, whole, the oldest first; what is not valid UTF-8 as {"base64": …}."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            selection = await wanted.resolved(link, dead_stream_of(settings))
            async for page in chosen(link, settings, selection):
                for letter in page:
                    if isinstance(letter, DeadLetter):
                        call.out.record("dead_letter", **_record(letter))
                call.out.flush()

        return await call.each_stream(one)


@command(dead_letters, "show")
@click.argument("letter_id", metavar="ID")
@click.option("--full", is_flag=True, help="Do not cut long values.")
async def show(call: Call, letter_id: str, full: bool) -> int:
    """Show one dead letter; ID is its own, or that of the entry it was."""
    found = False
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            nonlocal found
            selection = await Wanted((letter_id,), None, None, None).resolved(link, dead_stream_of(settings))
            async for page in chosen(link, settings, selection):
                for letter in page:
                    found = True
                    _print_letter(call, letter, full)

        code = await call.each_stream(one)
    if code == FINE and not found:
        call.out.note("error: there is no such dead letter: see dead-letters ls", style="red")
        return FAILED
    return code


def _print_letter(call: Call, letter: DeadLetter | NoLetter, full: bool) -> None:
    if call.as_json:
        is_letter = isinstance(letter, DeadLetter)
        record = _record(letter) if is_letter else {"letter_id": encoded(letter.letter_id)}  # type: ignore[arg-type]
        call.out.record(
            "dead_letter" if is_letter else "no_dead_letter", **{**record, "fields": encoded_pairs(letter.fields)}
        )
        return
    if isinstance(letter, NoLetter):
        call.out.line(f"{letter.letter_id.decode()} (no dead letter: somebody else wrote it)", style="bold")
    else:
        call.out.line(f"{letter.letter_id.decode()}, dead since {moment(letter.dead_at_ms)}", style="bold")
        deliveries = f"{letter.deliveries}, the last to {shown(letter.last_consumer)}"
        source = f"{shown(letter.stream)} / {shown(letter.group)}, entry {letter.entry_id.decode()}"
        for name, value in (("from", source), ("reason", shown(letter.reason)), ("deliveries", deliveries)):
            call.out.line(f"  {name:<12}{value}")
    print_fields(call, letter.fields, full)
