"""``status``, ``watch`` and ``check``: a group at a glance, live, and for a probe."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click
from redis.exceptions import RedisError
from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.text import Text

from monitor import server_clock
from monitor.cli.call import Call, command, stop_on_signals
from monitor.cli.escape import encoded, harmless, shortened
from monitor.cli.exits import BREACHED, FINE, INTERRUPTED, UsageProblem, as_ours
from monitor.cli.look import (
    AGE_NAMES,
    DELIVERY_NAMES,
    MOST_CONSUMERS,
    ConsumerLine,
    Overview,
    Sample,
    overview,
    summary_and_time,
)
from monitor.cli.main import commands
from monitor.cli.output import columns
from monitor.cli.words import span
from monitor.index import OFF
from monitor.pending import milliseconds_of
from shared.errors import JanitorError
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

_ACTIONS = {
    "requeue": "requeue to {0.requeue_target}",
    "handle": "handle",
    "dead_letter": "dead_letter: all that is abandoned is moved",
    "observe": "observing: nothing is claimed, written or created",
}
NOT_TOLD = "not told by this server or to this user"


@command(commands, "status")
async def status(call: Call) -> int:
    """Show each group at a glance."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            seen = await overview(link, settings)
            if call.as_json:
                call.out.record("status", **_record(settings, seen))
            else:
                call.out.line(_picture(settings, seen, call.out.data.is_terminal))

        return await call.each_stream(one)


@command(commands, "watch")
@click.option("--every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--count", type=click.IntRange(min=1), help="Look so many times; without it until Ctrl-C.")
async def watch(call: Call, every: float, count: int | None) -> int:
    """Show each group's status, live; off a terminal one after the other."""
    screen = call.out.data.is_terminal and not call.as_json
    async with call.link() as link:
        with stop_on_signals() as stop, _live(call, screen) as live:
            looks = 0
            while not stop:
                seen = [await _look(link, settings, call) for settings in call.settings.streams]
                if live:
                    live.update(Group(*seen), refresh=True)
                elif not call.as_json:
                    call.out.show(Group(*seen))
                call.out.flush()
                looks += 1
                if looks == count:
                    return FINE
                await stop.sleep(every)
    return INTERRUPTED


def _live(call: Call, screen: bool) -> AbstractContextManager[Live | None]:
    return Live(console=call.out.data, auto_refresh=False) if screen else nullcontext()


async def _look(link: RedisLink, settings: StreamSettings, call: Call) -> Text:
    """One stream's picture; while Redis is away, what is wrong, and the watch goes on."""
    try:
        seen = await overview(link, settings)
    except (RedisError, JanitorError) as error:
        text = str(as_ours(error, "watch", settings.stream, settings.group))
        if call.as_json:
            call.out.record("status", stream=settings.stream, group=settings.group, error=text)
        return Text(harmless(f"{settings.stream} / {settings.group}: {text}"), style="red")
    if call.as_json:
        call.out.record("status", **_record(settings, seen))
    return _picture(settings, seen, call.out.data.is_terminal)


@command(commands, "check")
@click.option("--max-age", type=click.FloatRange(min=0), metavar="S", help="The oldest pending entry may be so old.")
@click.option("--max-pending", type=click.IntRange(min=0), metavar="N", help="So many entries may be pending.")
async def check(call: Call, max_age: float | None, max_pending: int | None) -> int:
    """Exit with 4 if a group is over a threshold; for probes."""
    if max_age is None and max_pending is None:
        raise UsageProblem("check wants --max-age or --max-pending, or both")
    async with call.link() as link:

        async def one(settings: StreamSettings) -> int:
            summary, now_ms = await summary_and_time(link, settings)
            age_s = None if summary.smallest_id is None else (now_ms - milliseconds_of(summary.smallest_id)) / 1000
            clock = await server_clock.look(link, settings, summary, now_ms)
            age_s = clock.age_s(age_s)
            breached = _breached(age_s, max_age, summary.total, max_pending)
            if clock.trouble:  # no age is known, and nothing that is pending is recovered: never fine
                breached.append(("server_clock", clock.trouble))
            if call.as_json:
                call.out.record(
                    "check", stream=settings.stream, group=settings.group, pending=summary.total,
                    oldest_pending_age_s=age_s, breached=[name for name, _ in breached],
                )  # fmt: skip
            else:
                age = "" if age_s is None else f", oldest {span(age_s)}"
                verdict = "; ".join(text for _, text in breached) or "fine"
                call.out.line(f"{settings.stream}/{settings.group}: {summary.total} pending{age}: {verdict}")
            return BREACHED if breached else FINE

        return await call.each_stream(one)


def _breached(age_s: float | None, max_age_s: float | None, total: int, max_total: int | None) -> list[tuple[str, str]]:
    breached = []
    if max_age_s is not None and age_s is not None and age_s > max_age_s:
        breached.append(("max_age", f"the oldest is over {max_age_s:g} s old"))
    if max_total is not None and total > max_total:
        breached.append(("max_pending", f"more than {max_total} are pending"))
    return breached


def _record(settings: StreamSettings, seen: Overview) -> dict[str, Any]:
    sample, consumers = seen.sample, seen.consumers
    return {
        "stream": settings.stream,
        "group": settings.group,
        "pending": seen.summary.total,
        "oldest_pending_age_s": _seconds(seen.oldest_age_ms),
        "server_clock": seen.clock.trouble,
        "lag": seen.lag,
        "stream_length": seen.stream_length,
        "first_entry_age_s": _seconds(seen.first_entry_age_ms),
        "retention": None if seen.retained is None else seen.retained.line,
        "next_sweep_takes_up": sample.due,
        "looked_at": sample.looked_at,
        "looked_at_all": sample.is_all,
        "ages": dict(zip(AGE_NAMES, sample.ages, strict=True)),
        "deliveries": dict(zip(DELIVERY_NAMES, sample.deliveries, strict=True)),
        "dead_letter_stream": settings.dead_letter_stream,
        "dead_letters": seen.dead_letters,
        "oldest_dead_letter_age_s": _seconds(seen.oldest_dead_letter_age_ms),
        "action": settings.action,
        "index": settings.index_name if seen.index.status != OFF else None,
        "index_status": seen.index.status,
        "index_documents": seen.index.documents if seen.index.is_there else None,
        "index_refused": seen.index.failures if seen.index.is_there else None,
        "consumers": consumers
        and [
            {
                "name": encoded(line.consumer.name),
                "pending": line.consumer.pending,
                "idle_s": line.consumer.idle_ms / 1000,
                "oldest_pending_age_s": _seconds(line.oldest_age_ms),
            }
            for line in consumers[:MOST_CONSUMERS]
        ],
        "consumers_total": None if consumers is None else len(consumers),
    }


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _picture(settings: StreamSettings, seen: Overview, is_terminal: bool) -> Text:
    lines = [f"  {name:<15}{value}" for name, value in _facts(settings, seen)]
    if seen.summary.total:
        lines += _bars("age", AGE_NAMES, seen.sample.ages, is_terminal)
        lines += _not_looked_at(seen.sample, seen.summary.total)
        lines += _bars("deliveries", DELIVERY_NAMES, seen.sample.deliveries, is_terminal)
    if seen.consumers:
        lines += _consumer_lines(seen.consumers)
    title = Text(harmless(f"{settings.stream} / {settings.group}"), style="bold")
    return title.append("\n" + "\n".join(map(harmless, lines)), style="not bold")


def _facts(settings: StreamSettings, seen: Overview) -> list[tuple[str, str]]:
    total, sample, index = seen.summary.total, seen.sample, seen.index
    oldest = "" if seen.oldest_age_ms is None else f", oldest {span(seen.oldest_age_ms / 1000)}"
    if seen.clock.was_set_back:
        oldest = ", age unknown"
    looked_at = "" if sample.is_all else f" of the oldest {sample.looked_at:,}, and perhaps younger ones"
    refused = f", {index.failures:,} refused since it was created" if index.failures else ""
    documents = f", {index.documents:,} documents{refused}" if index.is_there else ""
    named = "" if settings.index_name in index.status else f"{', '.join(seen.index_names)}: "
    letters = NOT_TOLD if seen.dead_letters is None else f"{seen.dead_letters:,} in {settings.dead_letter_stream}"
    if settings.dead_letter_stream is None:
        letters = "off: entries that cannot be stored stay pending"
    if seen.oldest_dead_letter_age_ms is not None:
        letters += f", oldest {span(seen.oldest_dead_letter_age_ms / 1000)}"
    verb = "would take up" if settings.action == "observe" else "takes up"
    limit = f"; at most {settings.rate_limit:,} a second" if settings.rate_limit else ""
    action = [] if settings.action == "store" else [("action", _ACTIONS[settings.action].format(settings))]
    first = "" if seen.first_entry_age_ms is None else f", the first {span(seen.first_entry_age_ms / 1000)} old"
    return [
        *action,
        ("stream", f"{NOT_TOLD if seen.stream_length is None else f'{seen.stream_length:,} entries'}{first}"),
        ("retention", _retention(settings, seen)),
        ("pending", f"{total:,}{oldest}"),
        *([("server clock", seen.clock.trouble)] if seen.clock.trouble else []),
        ("not delivered", NOT_TOLD if seen.lag is None else f"{seen.lag:,}"),
        ("next sweep", f"{verb} {sample.due:,}{looked_at} (idle for {settings.min_idle_ms // 1000} s{limit})"),
        ("dead letters", letters),
        ("index", f"{named}{index.status}{documents}" if index.status != "off" else "off"),
    ]


def _retention(settings: StreamSettings, seen: Overview) -> str:
    if settings.retain_ms is None:
        return "off"
    after = f"after {span(settings.retain_ms / 1000)}"
    if seen.retained is None:
        return after
    return f"{after}: {seen.retained.line or 'held by no group'}"


def _bars(title: str, names: Sequence[str], counts: Sequence[int], is_terminal: bool) -> list[str]:
    most = max(*counts, 1)
    bars = ["█" * -(-24 * count // most) if is_terminal else "" for count in counts]
    titles = [title, *("" for _ in counts[1:])]
    rows = zip(titles, names, counts, bars, strict=True)
    return [columns((f"  {first:<13}", name, f"{count:,}", bar), (15, 12, -9, 0)) for first, name, count, bar in rows]


def _not_looked_at(sample: Sample, total: int) -> list[str]:
    if sample.is_all or sample.youngest_age_ms is None:
        return []
    rest = max(total - sample.looked_at, 0)
    return [f"  {'':<15}and {rest:,} not looked at, all younger than {span(sample.youngest_age_ms / 1000)}"]


def _consumer_lines(consumers: Sequence[ConsumerLine]) -> list[str]:
    rows = [("  consumer", "pending", "idle", "oldest pending")]
    for line in consumers[:MOST_CONSUMERS]:
        age = "" if line.oldest_age_ms is None else span(line.oldest_age_ms / 1000)
        name, pending, idle_ms = line.consumer
        rows.append((f"  {shortened(name, 40)}", f"{pending:,}", span(idle_ms / 1000), age))
    widths = (max(cell_len(row[0]) for row in rows), -9, -12, -14)
    lines = [columns(row, widths) for row in rows]
    more = len(consumers) - MOST_CONSUMERS
    return [*lines, f"  and {more:,} more"] if more > 0 else lines
