"""Which dead letters a command means: the options that say so, and the letters themselves, page by page."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from redis.exceptions import ResponseError

from monitor.cli.exits import UsageProblem
from monitor.cli.look import server_time_ms
from monitor.cli.main import commands
from monitor.cli.words import milliseconds_at
from monitor.dead_letter import DeadLetter, read_letter
from monitor.pending import LAST, order_of
from monitor.redrive import NoLetter, Selection, pages
from shared.errors import RedisRefused
from shared.redis_client import RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings

Command = TypeVar("Command", bound=Callable[..., Any])


@commands.group("dead-letters")
def dead_letters() -> None:
    """Entries that could not be stored through their own fault."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters, as it was typed; times and ids are made out once Redis is there to ask."""

    ids: tuple[str, ...]
    reason: str | None
    since: str | None
    until: str | None

    async def resolved(self, link: RedisLink, dead: str) -> Selection:
        await _look_at_type(link, dead)
        now_ms = await server_time_ms(link)
        first, last = _bound(self.since, now_ms, "--since"), _bound(self.until, now_ms, "--until")
        newest = await link.call("XREVRANGE", dead, "+", "-", "COUNT", 1)
        # What arrives in the dead-letter stream from now on is not meant: a redrive into the stream would chase itself.
        if newest and (last is None or order_of(newest[0][0]) <= order_of(last)):
            last = newest[0][0]
        ids = [_normal(one) for one in self.ids]
        replies = await link.pipelined([("XRANGE", dead, one, one) for one in ids]) if ids else []
        own = frozenset(one for one, reply in zip(ids, replies, strict=True) if isinstance(reply, list) and reply)
        return Selection(first or b"-", last or LAST, own, frozenset(ids) - own, self.reason)


def _bound(text: str | None, now_ms: int, option: str) -> bytes | None:
    if text is None:
        return None
    try:
        return b"%d" % max(milliseconds_at(text, now_ms), 0)
    except ValueError:
        raise UsageProblem(f"{option}: expected a time like 2026-05-01T12:00Z (UTC), or 2h (ago)") from None


def _normal(text: str) -> bytes:
    parts = text.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) <= 20 for part in parts):
        raise UsageProblem("an id looks like 1700000000000-0")
    return (text if len(parts) == 2 else f"{text}-0").encode()


def selecting(body: Command) -> Command:
    """Add the options that select letters; the command gets them as ``wanted``."""

    @functools.wraps(body)
    def with_wanted(
        *arguments: Any, ids: tuple[str, ...], reason: str | None, since: str | None, until: str | None, **options: Any
    ) -> Any:
        return body(*arguments, wanted=Wanted(ids, reason, since, until), **options)

    for option in (
        click.option("--until", metavar="TIME", help="Dead not after this time, or so long ago."),
        click.option("--since", metavar="TIME", help="Dead since: 2026-05-01T12:00Z, or 2h, 7d ago."),
        click.option("--reason", metavar="TEXT", help="Only those with this in their reason."),
        click.option(
            "--id", "ids", metavar="ID", multiple=True, help="The letter's id or the entry's; may be repeated."
        ),
    ):
        with_wanted = option(with_wanted)
    return with_wanted  # type: ignore[return-value]


def dead_stream_of(settings: StreamSettings) -> str:
    if settings.dead_letter_stream is None:
        raise UsageProblem("DEAD_LETTER_STREAM is off: there are no dead letters")
    return settings.dead_letter_stream


async def _look_at_type(link: RedisLink, dead: str) -> None:
    """Name the key and its setting where the dead letters should lie and something else does.

    Raises:
        RedisRefused: the key is no stream.
        redis.exceptions.RedisError: it cannot be looked at.
    """
    try:
        await link.call("XRANGE", dead, "0-1", "0-1")
    except ResponseError as error:
        if code_of(error) != "WRONGTYPE":
            raise
        text = f"{dead!r}, where the dead letters should lie, is a key of another type: set DEAD_LETTER_STREAM"
        raise RedisRefused(text) from None


async def chosen(
    link: RedisLink, settings: StreamSettings, selection: Selection
) -> AsyncIterator[list[DeadLetter | NoLetter]]:
    """The selected letters, page by page; of those that are none of this stream and group only what is named by its id."""
    dead = dead_stream_of(settings)
    if selection.letter_ids and not selection.entry_ids:
        ids = sorted(selection.letter_ids, key=order_of)
        for one in ids:
            for entry_id, pairs in await link.call("XRANGE", dead, one, one):
                letter = read_letter(entry_id, pairs) or NoLetter(entry_id, pairs)
                if isinstance(letter, NoLetter) or selection.takes(letter):
                    yield [letter]
        return
    async for page in pages(link, dead, selection.first, selection.last):
        yield [letter for letter in page if _is_chosen(letter, selection, settings)]


def _is_chosen(letter: DeadLetter | NoLetter, selection: Selection, settings: StreamSettings) -> bool:
    if isinstance(letter, NoLetter):
        return letter.letter_id in selection.letter_ids
    return letter.is_of(settings) and selection.takes(letter)
