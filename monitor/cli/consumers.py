"""``consumers ls`` and ``consumers reap``: who reads the group, and who has not for long."""

from __future__ import annotations

import dataclasses

import click

from monitor.cli.call import Call, command
from monitor.cli.escape import encoded, shortened
from monitor.cli.exits import UsageProblem
from monitor.cli.look import ConsumerLine, server_time_ms, with_oldest
from monitor.cli.main import commands
from monitor.cli.output import columns
from monitor.cli.words import span
from monitor.consumers import Consumer, dead, listed, remove
from shared.settings import StreamSettings

WIDTHS = (24, -9, -12, -14)
HEADER = ("CONSUMER", "PENDING", "IDLE", "OLDEST PENDING")
MOST_REMOVED_AT_ONCE = 1000


@commands.group("consumers")
def consumers() -> None:
    """The group's consumers."""


@command(consumers, "ls")
async def ls(call: Call) -> int:
    """List the consumers, those with most pending first."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            found = await listed(link, settings)
            if found and not call.as_json:
                call.out.line(columns(HEADER, WIDTHS), style="bold")
            for line in await with_oldest(link, settings, found, await server_time_ms(link)):
                _print(call, settings, line)

        return await call.each_stream(one)


def _print(call: Call, settings: StreamSettings, line: ConsumerLine) -> None:
    name, pending, idle_ms = line.consumer
    age_s = None if line.oldest_age_ms is None else line.oldest_age_ms / 1000
    if call.as_json:
        call.out.record(
            "consumer", stream=settings.stream, group=settings.group, name=encoded(name), pending=pending,
            idle_s=idle_ms / 1000, oldest_pending_age_s=age_s,
        )  # fmt: skip
        return
    cells = (shortened(name, 60), f"{pending:,}", span(idle_ms / 1000), "" if age_s is None else span(age_s))
    call.out.line(columns(cells, WIDTHS))


@command(consumers, "reap")
@click.option(
    "--after", type=click.IntRange(min=1), metavar="S", help="Idle seconds, instead of REAP_CONSUMERS_AFTER_SEC."
)
@click.option("--dry-run", is_flag=True, help="Only tell which ones.")
async def reap(call: Call, after: int | None, dry_run: bool) -> int:
    """Remove consumers that have nothing pending and were idle for long; never one with pending entries."""
    if after is None and not all(settings.reap_after_ms for settings in call.settings.streams):
        raise UsageProblem("REAP_CONSUMERS_AFTER_SEC is 0 (off): say --after seconds")
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            if after is not None:
                settings = dataclasses.replace(settings, reap_after_ms=1000 * after)
            found = dead(settings, await listed(link, settings))
            for first in range(0, len(found), MOST_REMOVED_AT_ONCE):
                some = found[first : first + MOST_REMOVED_AT_ONCE]
                _tell(call, settings, some if dry_run else _named(some, await remove(link, settings, some)), dry_run)
            if not found:
                call.out.note(
                    f"no consumer of {settings.stream}/{settings.group} is idle for so long and has nothing pending"
                )

        return await call.each_stream(one)


def _named(found: list[Consumer], names: list[bytes]) -> list[Consumer]:
    return [one for one in found if one.name in names]


def _tell(call: Call, settings: StreamSettings, removed: list[Consumer], dry_run: bool) -> None:
    for consumer in removed:
        if call.as_json:
            call.out.record(
                "reaped_consumer", stream=settings.stream, group=settings.group, name=encoded(consumer.name),
                idle_s=consumer.idle_ms / 1000, dry_run=dry_run,
            )  # fmt: skip
        else:
            verb = "would remove" if dry_run else "removed"
            call.out.line(f"{verb} {shortened(consumer.name, 60)}, idle for {span(consumer.idle_ms / 1000)}")
