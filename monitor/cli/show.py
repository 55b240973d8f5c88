"""``show``: one entry, what it holds, and what a sweep would do with it and why."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click
from rich.text import Text

from monitor.cli.call import Call, command
from monitor.cli.escape import encoded, encoded_pairs, shortened, shown
from monitor.cli.exits import FAILED, FINE, UsageProblem
from monitor.cli.look import last_delivered_id, summary_and_time
from monitor.cli.main import commands
from monitor.cli.pending import record_of
from monitor.cli.words import moment, span
from monitor.decide import last_id_worth_reading
from monitor.forecast import WORDS, Forecast, capped, forecasts, left_alone, read_fields
from monitor.outcomes import OUTCOMES
from monitor.pending import PendingEntry, Summary, milliseconds_of, order_of
from monitor.requeued import count_of
from shared.own_keys import attempts_key
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

MOST_SHOWN_CELLS = 1000
_ID = re.compile(r"\d{1,20}(-\d{1,20})?")


@command(commands, "show")
@click.argument("entry_id", metavar="ID")
@click.option("--full", is_flag=True, help="Do not cut long values.")
async def show(call: Call, entry_id: str, full: bool) -> int:
    """Show one entry, and what a sweep would do with it and why."""
    if not _ID.fullmatch(entry_id):
        raise UsageProblem("an entry id looks like 1700000000000-0")
    wanted = (entry_id if "-" in entry_id else f"{entry_id}-0").encode()
    found = False
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            nonlocal found
            found = await _show_one(call, link, settings, wanted, full) or found

        code = await call.each_stream(one)
    if code == FINE and not found:
        call.out.note(f"error: no stream that is configured has {wanted.decode()}, nor is it pending", style="red")
        return FAILED
    return code


async def _show_one(call: Call, link: RedisLink, settings: StreamSettings, entry_id: bytes, full: bool) -> bool:
    summary, now_ms = await summary_and_time(link, settings)
    rows = await link.call("XPENDING", settings.stream, settings.group, entry_id, entry_id, 1)
    (fields,) = await read_fields(link, settings.stream, [entry_id])
    if not rows and fields is None:
        return False
    if rows:
        row = PendingEntry._make(rows[0])
        expected = await _forecast(link, settings, summary, row, fields, now_ms)
        attempts: int | None = await _attempts(link, settings, entry_id)
        state = _state(row, now_ms)
        next_sweep = _foreseen(expected, attempts, settings)
        record = record_of(settings, row, fields, now_ms)
        outcome = expected.outcome and expected.outcome.value
        key = expected.hash_key
    else:
        state, next_sweep = await _not_pending(link, settings, entry_id)
        record = {"stream": settings.stream, "group": settings.group, "entry_id": entry_id.decode()}
        record["fields"] = None if fields is None else encoded_pairs(fields)
        outcome, attempts, key = None, None, None
    if call.as_json:
        told = {"state": state, "next_sweep": next_sweep, "outcome": outcome, "attempts": attempts}
        call.out.record("entry", **record, **told, hash_key=None if key is None else encoded(key))
        return True
    facts = [("state", state), ("next sweep", next_sweep), *_requeues(settings, fields)]
    _print_one(call, settings, entry_id, facts, now_ms)
    print_fields(call, fields, full)
    return True


async def _forecast(
    link: RedisLink,
    settings: StreamSettings,
    summary: Summary,
    row: PendingEntry,
    fields: list[bytes] | None,
    now_ms: int,
) -> Forecast:
    end = last_id_worth_reading(summary, now_ms, settings.min_idle_ms)
    alone = left_alone(row, now_ms, end, settings)
    return alone or capped(row, settings) or (await forecasts(link, settings, [row.entry_id], [fields]))[0]


async def _attempts(link: RedisLink, settings: StreamSettings, entry_id: bytes) -> int:
    """How many sweeps ended in an unknown error of this entry."""
    if settings.dead_letter_stream is None or settings.action != "store":
        return 0
    (reply,) = await link.pipelined([("HGET", attempts_key(settings.dead_letter_stream), entry_id)])
    return int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0


def _state(row: PendingEntry, now_ms: int) -> str:
    deliveries = f"{row.deliveries} {'delivery' if row.deliveries == 1 else 'deliveries'}"
    if row.idle_ms < 0:
        return f"pending, released by its consumer, {deliveries}"
    return (
        f"pending at {shortened(row.consumer, 60)} for {span(row.idle_ms / 1000)}: "
        f"last delivered {moment(now_ms - row.idle_ms)}, {deliveries}"
    )


def _foreseen(expected: Forecast, attempts: int | None, settings: StreamSettings) -> str:
    """The forecast in words."""
    words = f"leaves it alone; {expected.reason}"
    if expected.outcome is not None:
        key = f"the {WORDS[settings.store_as]} {shortened(expected.hash_key or b'', 200)}"
        words = OUTCOMES[expected.outcome].foreseen.format(
            key=key, dead_letters=settings.dead_letter_stream, target=settings.requeue_target, reason=expected.reason
        )
    if not attempts:
        return words
    limit = "over the limit" if attempts >= settings.max_attempts else "of"
    return f"{words}; {attempts} attempts ended in an unknown error ({limit} MAX_ATTEMPTS {settings.max_attempts})"


def _requeues(settings: StreamSettings, fields: Sequence[bytes] | None) -> list[tuple[str, str]]:
    """How often it was requeued, under ACTION=requeue."""
    if settings.action != "requeue" or fields is None:
        return []
    limit = f"of MAX_REQUEUES {settings.max_requeues}" if settings.max_requeues else "MAX_REQUEUES is off"
    return [("requeues", f"{count_of(fields)} ({limit})")]


async def _not_pending(link: RedisLink, settings: StreamSettings, entry_id: bytes) -> tuple[str, str]:
    last_id = await last_delivered_id(link, settings)
    if last_id is None:
        return "not pending", "leaves it alone; it was acknowledged already, or is not delivered yet"
    if order_of(entry_id) > order_of(last_id):
        return "not delivered yet", "leaves it alone; no consumer has got it so far"
    return "already acknowledged", "leaves it alone; a consumer or a sweep has acknowledged it"


def _print_one(
    call: Call, settings: StreamSettings, entry_id: bytes, facts: Sequence[tuple[str, str]], now_ms: int
) -> None:
    at_ms = milliseconds_of(entry_id)
    made = (
        f"{moment(at_ms)}, {span((now_ms - at_ms) / 1000)} ago"
        if at_ms <= now_ms
        else "an id that lies ahead of the clock"
    )
    call.out.line(f"{entry_id.decode()} in {settings.stream} / {settings.group} ({made})", style="bold")
    for name, value in facts:
        call.out.line(f"  {name:<12}{value}")


def print_fields(call: Call, fields: Sequence[bytes] | None, full: bool) -> None:
    """Print names and values in turn, a line each, long values cut unless ``full``."""
    if fields is None:
        call.out.line("  fields      gone from the stream")
        return
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        text = shown(value) if full else shortened(value, MOST_SHOWN_CELLS)
        line = Text(f"  {shown(name) if full else shortened(name, 60)}", style="cyan")
        call.out.line(line.append(f" = {text}", style="not bold default"))
