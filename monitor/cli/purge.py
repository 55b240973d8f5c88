"""``dead-letters purge``: letters deleted for good."""

from __future__ import annotations

import asyncio
import sys

import click
from rich.text import Text

from monitor.cli.call import Call, command, stop_on_signals
from monitor.cli.escape import harmless
from monitor.cli.exits import UsageProblem
from monitor.cli.selection import Wanted, chosen, dead_letters, dead_stream_of, selecting
from monitor.redrive import Selection
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

DELETED_AT_ONCE = 100


@command(dead_letters, "purge")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only tell how many.")
@selecting
async def purge(call: Call, yes: bool, dry_run: bool, wanted: Wanted) -> int:
    """Delete dead letters for good. Asks first, or wants --yes."""
    async with call.link() as link:

        async def one(settings: StreamSettings) -> None:
            dead = dead_stream_of(settings)
            selection = await wanted.resolved(link, dead)
            count = 0
            async for page in chosen(link, settings, selection):
                count += len(page)
            deleted = 0
            if (
                count
                and not dry_run
                and (yes or await _confirmed(call, f"Delete {count:,} dead letters of {dead} for good?"))
            ):
                deleted = await _delete(link, settings, selection)
            if call.as_json:
                call.out.record(
                    "purge", stream=settings.stream, group=settings.group, dead_letter_stream=dead, selected=count,
                    deleted=deleted, dry_run=dry_run,
                )  # fmt: skip
            else:
                call.out.line(f"{dead}: {f'{count:,} would be' if dry_run else f'{deleted:,}'} deleted")

        return await call.each_stream(one)


async def _confirmed(call: Call, question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageProblem("purge deletes for good: say --yes where nobody can be asked")
    loop = asyncio.get_running_loop()
    with stop_on_signals() as stop:
        # Not input(): a Ctrl-C just before it begins to wait is lost, and it then waits for ever.
        try:
            loop.add_reader(sys.stdin, stop.event.set)
        except NotImplementedError:  # Windows
            return click.confirm(harmless(question), err=True)
        call.out.progress.print(Text(harmless(f"{question} [y/N]: ")), end="", soft_wrap=True)
        await stop.event.wait()
        loop.remove_reader(sys.stdin)
    if stop:
        raise click.Abort
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _delete(link: RedisLink, settings: StreamSettings, selection: Selection) -> int:
    deleted = 0
    async for page in chosen(link, settings, selection):
        for first in range(0, len(page), DELETED_AT_ONCE):
            ids = [letter.letter_id for letter in page[first : first + DELETED_AT_ONCE]]
            deleted += await link.call("XDEL", dead_stream_of(settings), *ids)
    return deleted
