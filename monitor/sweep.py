"""One sweep over one consumer group, top to bottom.

Open (one round trip: what is pending, the server's time, the index) → walk the pending entries list page by page → settle
the abandoned entries of each page, batch by batch → move what cannot be stored to the dead-letter stream → report.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from redis import exceptions as redis_errors
from redis.exceptions import RedisError

from monitor import consumers, standing
from monitor.batches import Batches, Carried
from monitor.course import Course
from monitor.decide import abandoned, last_id_worth_reading
from monitor.index import IndexInfo, RefusedDocuments, SearchIndex
from monitor.pending import (
    FIRST,
    GREATEST_ID,
    PendingEntry,
    Summary,
    following,
    milliseconds_of,
    preceding,
    read_page,
    summary_of,
)
from monitor.report import NOT_ASKED, Outcome, SweepReport, Tally
from shared.errors import JanitorError, RedisRefused
from shared.redis_client import Command, RedisLink, Reply
from shared.retry import explained
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry, Standing, SweepFacts

__all__ = ["Carried", "Sweep"]


class Sweep:
    """One pass over one group's pending entries list; ``run`` it once."""

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        page_size: int,
        concurrency: int,
        budget_s: float,
        carried: Carried,
        telemetry: GroupTelemetry = SILENT_GROUP,
    ) -> None:
        self._link = link
        self._settings = settings
        self._page_size = page_size
        self._concurrency = concurrency
        self._carried = carried
        self._telemetry = telemetry
        self._standing: Standing | None = None
        self._started_s = time.monotonic()
        self._course = Course(link, budget_s)
        self._tally = Tally()
        self._index = SearchIndex(link, settings)
        self._index_info = IndexInfo(NOT_ASKED)
        self._summary = Summary(0, None, None)
        self._now_ms = 0
        self._batches: Batches | None = None
        """None while nothing abandoned was found."""
        self._removed = 0
        self._looked_at = self._found = 0

    async def run(self) -> SweepReport:
        """Sweep, within the budget; whatever happens there is a report, and ``error`` says what ended it early."""
        with self._telemetry.sweep() as tell:
            await self._sweep_in_budget()
            if self._batches is not None:
                self._batches.warn_of_unpublished()
            report = self._report()
            outcomes = {outcome.value: self._tally.counts[outcome] for outcome in Outcome}
            tell(SweepFacts(report, outcomes, report.reasons, self._standing, self._course.error))
        return report

    async def _sweep_in_budget(self) -> None:
        course = self._course
        try:
            await asyncio.wait_for(self._sweep(), course.left_s)
        except asyncio.TimeoutError:
            course.fail(explained(redis_errors.TimeoutError(), "the sweep"))
        except RedisError as error:
            course.fail(explained(error, "the sweep"))
        except JanitorError as error:
            course.fail(error)
        self._carried.cursor = course.left_at
        if course.leads_astray:
            await self._link.reconnect()

    def stop(self) -> None:
        """Take up nothing more: the batches in hand are finished, and the report says that the sweep is not complete."""
        self._course.stop()

    @property
    def error(self) -> JanitorError | None:
        """What ended the sweep early, as an exception to raise."""
        return self._course.error

    @property
    def progress(self) -> tuple[int, int]:
        """Of how many pending entries how many are through by now: too young to take up, or settled."""
        return self._summary.total, self._looked_at - self._found + self._tally.candidates

    async def _sweep(self) -> None:
        await self._open()
        if self._summary.total:
            documents = RefusedDocuments(self._index, self._index_info, self._tally)
            self._batches = Batches(
                self._link,
                self._settings,
                self._concurrency,
                self._carried,
                self._course,
                self._tally,
                documents,
                self._telemetry,
            )
            await self._walk(self._batches)
            await self._course.persist(documents.look)
        if self._settings.reap_after_ms and not self._course.error:
            self._removed = await consumers.reap(self._link, self._settings)

    # --- open -------------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings = self._settings
        about_index = await self._course.persist(self._index.question)
        about_standing = standing.question(settings) if self._telemetry.is_on else []
        commands: list[Command] = [
            ("XPENDING", settings.stream, settings.group),
            ("TIME",),
            *about_index,
            *about_standing,
        ]
        pending, now, *others = await self._course.persist(lambda: self._first_replies(commands))
        self._summary = summary_of(pending)
        self._now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        self._index_info = self._index.answer(others[: len(about_index)])
        if about_standing:
            lag, dead_letters = standing.answer(settings, others[len(about_index) :])
            self._standing = Standing(self._summary.total, self._oldest_pending_age_s, lag, dead_letters)
        if self._index_info.is_missing:
            self._index_info = await self._index.create(self._index_info.missing)

    async def _first_replies(self, commands: Sequence[Command]) -> list[Reply]:
        """XPENDING and TIME have to work; what the others answer is only noted."""
        replies = await self._link.pipelined(commands)
        for command, reply in zip(commands[:2], replies, strict=False):
            if isinstance(reply, Exception):
                raise self._explained_opening(reply, str(command[0])) or reply
        return replies

    def _explained_opening(self, error: Exception, command: str) -> JanitorError | None:
        settings = self._settings
        if str(error).startswith("NOGROUP"):
            return RedisRefused(
                f"there is no consumer group {settings.group!r} on the stream {settings.stream!r}; create it with: "
                f"XGROUP CREATE {settings.stream} {settings.group} 0 MKSTREAM"
            )
        if str(error).startswith("WRONGTYPE"):
            return RedisRefused(f"STREAM_NAME {settings.stream!r} is a key of another type, not a stream")
        if getattr(error, "status_code", None) == "NOPERM":
            return explained(error, command)
        return None

    # --- walk -------------------------------------------------------------------------------------------------------------

    async def _walk(self, batches: Batches) -> None:
        """From the cursor to the end, then what lies before the cursor, so that no bad head starves the tail."""
        end = last_id_worth_reading(self._summary, self._now_ms, self._settings.min_idle_ms)
        cursor = self._carried.cursor
        stretches = [(FIRST, end)] if cursor is None else [(cursor, end), (FIRST, preceding(cursor))]
        for first, last in stretches:
            await self._walk_stretch(batches, first, last)

    async def _walk_stretch(self, batches: Batches, first: bytes, last: bytes) -> None:
        under_way: set[asyncio.Task[None]] = set()
        try:
            while not self._course.stops_at(first):
                rows = await self._course.persist(self._page_reader(first, last))
                entries = abandoned(rows, self._settings.min_idle_ms)
                self._looked_at += len(rows)
                self._found += len(entries)
                if entries:
                    await self._hand_out(entries, batches, under_way)
                if len(rows) < self._page_size or rows[-1][0] == GREATEST_ID:
                    break
                first = following(rows[-1][0])  # type: ignore[arg-type]
            await _all_of(under_way)
        except BaseException:
            self._course.leave(first)
            raise
        finally:
            await _cancel(under_way)

    def _page_reader(self, first: bytes, last: bytes) -> Callable[[], Awaitable[list[list[bytes | int]]]]:
        settings = self._settings
        return lambda: read_page(self._link, settings.stream, settings.group, first, last, self._page_size)

    async def _hand_out(
        self, entries: list[PendingEntry], batches: Batches, under_way: set[asyncio.Task[None]]
    ) -> None:
        """Hand a page's entries to as many workers as batches may be under way; wait for room, not for the end.

        Entries of a full page stay together, as another page follows for the next worker; a shorter list is shared.
        """
        settle = await batches.choose()
        workers = 1 if len(entries) >= self._page_size else settle.concurrency
        size = -(-len(entries) // workers)
        for at in range(0, len(entries), size):
            while len(under_way) >= settle.concurrency:
                await _one_of(under_way)
            under_way.add(asyncio.create_task(batches.settle_all(entries[at : at + size])))

    # --- report -----------------------------------------------------------------------------------------------------------

    @property
    def _oldest_pending_age_s(self) -> float | None:
        smallest_id = self._summary.smallest_id
        if smallest_id is None:
            return None
        return max(self._now_ms - milliseconds_of(smallest_id), 0) / 1000  # an id may lie ahead of the clock

    def _report(self) -> SweepReport:
        summary, tally = self._summary, self._tally
        return SweepReport(
            stream=self._settings.stream,
            group=self._settings.group,
            pending=summary.total,
            candidates=tally.candidates,
            **{outcome.value: tally.counts[outcome] for outcome in Outcome},
            unsearchable=tally.unsearchable,
            duration_s=time.monotonic() - self._started_s,
            complete=self._course.is_complete,
            oldest_pending_age_s=self._oldest_pending_age_s,
            settle_mode=self._batches.mode if self._batches else "none",
            index=self._index_info.status,
            consumers_removed=self._removed,
            reasons=tally.reasons(),
            error=None if self._course.error is None else str(self._course.error),
            rate_limited=self._batches is not None and self._batches.rate_limited,
        )


async def _one_of(tasks: set[asyncio.Task[None]]) -> None:
    """Wait until one of ``tasks`` has ended, take it out, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks -= done
    errors = [task.exception() for task in done]  # each is asked, or asyncio complains of those that nobody asked
    for error in filter(None, errors):
        raise error


async def _all_of(tasks: set[asyncio.Task[None]]) -> None:
    while tasks:
        await _one_of(tasks)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
