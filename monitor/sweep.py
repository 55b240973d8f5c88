"""One sweep over one consumer group, top to bottom.

Open (one round trip: what is pending, the server's time, the index) → walk the pending entries list page by page → settle
the abandoned entries of each page, batch by batch → move what cannot be stored to the dead-letter stream → report.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from redis import exceptions as redis_errors
from redis.exceptions import RedisError, ResponseError

from monitor import consumers
from monitor.dead_letter import DeadLetters
from monitor.decide import abandoned, last_id_worth_reading
from monitor.gather import GatherSettle
from monitor.index import IndexInfo, RefusedDocuments, SearchIndex
from monitor.pending import (
    FIRST,
    PendingEntry,
    Summary,
    following,
    milliseconds_of,
    order_of,
    preceding,
    read_page,
    summary_of,
)
from monitor.report import Outcome, SweepReport, Tally
from monitor.settle import Batch, ScriptNotAllowed, ScriptSettle, Settle, script_is_allowed
from shared.errors import JanitorError, RedisRefused
from shared.redis_client import Command, RedisLink, Reply
from shared.retry import Deadline, code_of, explained, persist
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")

Result = TypeVar("Result")

LAST_SHARE_S: Final = 1.0
"""No new batch is begun in the budget's last second (or fifth), so that what is under way can end."""


@dataclass(slots=True)
class Carried:
    """What one sweep leaves to the next one in the same process; a new process does without."""

    cursor: bytes | None = None
    """The id where the last sweep stopped; None: it came to the end."""
    settle: Settle | None = None
    """How entries are settled here, once the server was asked."""


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
    ) -> None:
        self._link = link
        self._settings = settings
        self._page_size = page_size
        self._concurrency = concurrency
        self._carried = carried
        self._started_s = time.monotonic()
        self._hard_end = Deadline.after(budget_s)
        self._soft_end = Deadline.after(budget_s - min(LAST_SHARE_S, budget_s / 5))
        self._tally = Tally()
        self._index = SearchIndex(link, settings)
        self._index_info = IndexInfo("not asked")
        self._summary = Summary(0, None, None)
        self._now_ms = 0
        self._error: JanitorError | None = None
        self._left_at: bytes | None = None
        self._settle_mode = "none"
        self._removed = 0
        self._looked_at = self._found = 0

    async def run(self) -> SweepReport:
        """Sweep, within the budget; whatever happens there is a report, and ``error`` says what ended it early."""
        try:
            await asyncio.wait_for(self._sweep(), max(self._hard_end.left_s(), 0.01))
        except asyncio.TimeoutError:
            self._fail(explained(redis_errors.TimeoutError(), "the sweep"))
        except RedisError as error:
            self._fail(explained(error, "the sweep"))
        except JanitorError as error:
            self._fail(error)
        self._carried.cursor = self._left_at
        return self._report()

    def stop(self) -> None:
        """Take up nothing more: the batches in hand are finished, and the report says that the sweep is not complete."""
        self._soft_end = Deadline.after(0)

    @property
    def progress(self) -> tuple[int, int]:
        """Of how many pending entries how many are through by now: too young to take up, or settled."""
        return self._summary.total, self._looked_at - self._found + self._tally.candidates

    async def _sweep(self) -> None:
        await self._open()
        if self._summary.total:
            self._refused_documents = RefusedDocuments(self._index, self._index_info, self._tally)
            await self._walk()
            await self._persist(self._refused_documents.look)
        if self._settings.reap_after_ms and not self._error:
            self._removed = await consumers.reap(self._link, self._settings)

    # --- open -------------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings = self._settings
        commands: list[Command] = [
            ("XPENDING", settings.stream, settings.group),
            ("TIME",),
            *self._index.question(),
        ]
        pending, now, *index = await self._persist(lambda: self._first_replies(commands))
        self._summary = summary_of(pending)
        self._now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        self._index_info = self._index.answer(index)
        if self._index_info.is_missing:
            self._index_info = await self._index.create()

    async def _first_replies(self, commands: Sequence[Command]) -> list[Reply]:
        """XPENDING and TIME have to work; what the index answers is only noted."""
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

    async def _walk(self) -> None:
        """From the cursor to the end, then what lies before the cursor, so that no bad head starves the tail."""
        end = last_id_worth_reading(self._summary, self._now_ms, self._settings.min_idle_ms)
        cursor = self._carried.cursor
        stretches = [(FIRST, end)] if cursor is None else [(cursor, end), (FIRST, preceding(cursor))]
        for first, last in stretches:
            await self._walk_stretch(first, last)

    async def _walk_stretch(self, first: bytes, last: bytes) -> None:
        under_way: set[asyncio.Task[None]] = set()
        try:
            while not self._stops_at(first):
                rows = await self._persist(self._page_reader(first, last))
                entries = abandoned(rows, self._settings.min_idle_ms)
                self._looked_at += len(rows)
                self._found += len(entries)
                if entries:
                    await self._settle_page(entries, under_way)
                if len(rows) < self._page_size:
                    break
                first = following(rows[-1][0])  # type: ignore[arg-type]
            await _all_of(under_way)
        except BaseException:
            self._leave(first)
            raise
        finally:
            await _cancel(under_way)

    def _page_reader(self, first: bytes, last: bytes) -> Callable[[], Awaitable[list[list[bytes | int]]]]:
        settings = self._settings
        return lambda: read_page(self._link, settings.stream, settings.group, first, last, self._page_size)

    async def _settle_page(self, entries: list[PendingEntry], under_way: set[asyncio.Task[None]]) -> None:
        """Hand the entries out to as many workers as batches may be under way; wait for room, not for the end.

        Entries of a full page stay together, as another page follows for the next worker; a shorter list is shared.
        """
        settle = await self._chosen_settle()
        workers = 1 if len(entries) >= self._page_size else settle.concurrency
        size = -(-len(entries) // workers)
        for at in range(0, len(entries), size):
            while len(under_way) >= settle.concurrency:
                await _one_of(under_way)
            under_way.add(asyncio.create_task(self._settle_part(entries[at : at + size])))

    # --- settle -----------------------------------------------------------------------------------------------------------

    async def _chosen_settle(self) -> Settle:
        if self._carried.settle is None:
            reason = await self._reason_against_script()
            self._use_gather(reason) if reason else self._use(ScriptSettle(self._link, self._settings), "a script may")
        settle = self._carried.settle
        assert settle is not None
        self._settle_mode = settle.name
        return settle

    async def _reason_against_script(self) -> str | None:
        if self._settings.settle_mode == "gather":
            return "SETTLE_MODE asks for it"
        if self._settings.ack_replicas:
            return "ACK_REPLICAS asks for it"
        reason = await self._persist(lambda: script_is_allowed(self._link, self._settings))
        if reason and self._settings.settle_mode == "script":
            raise RedisRefused(f"SETTLE_MODE is script, but a script cannot settle here: {reason}; use auto or gather")
        return reason

    def _use(self, settle: Settle, reason: str) -> None:
        self._carried.settle = settle
        self._settle_mode = settle.name
        logger.info("settle mode for %s/%s: %s (%s)", self._settings.stream, self._settings.group, settle.name, reason)

    def _use_gather(self, reason: str) -> None:
        self._use(GatherSettle(self._link, self._settings, self._concurrency), reason)

    async def _settle_part(self, entries: list[PendingEntry]) -> None:
        """Settle a run of entries batch by batch, until they are through or the sweep is stopping."""
        while entries:
            settle = self._carried.settle
            assert settle is not None
            if self._stops_at(entries[0].entry_id):
                return
            batch = await self._settle_batch(settle, entries[: settle.batch_size])
            entries = entries[batch.taken :]

    async def _settle_batch(self, settle: Settle, entries: Sequence[PendingEntry]) -> Batch:
        """Settle one batch and count each of its entries once, also when the reply is lost or the sweep is cancelled."""
        is_repeated = False

        async def attempt() -> Batch:
            nonlocal is_repeated
            was_repeated, is_repeated = is_repeated, True
            batch = await settle.settle(entries)
            if was_repeated:  # what the lost attempt settled now looks as if someone else had
                batch.counts[Outcome.UNKNOWN], batch.lost = batch.lost, 0
            return batch

        try:
            batch = await self._persist(attempt)
        except ScriptNotAllowed as refusal:
            return self._fall_back(str(refusal))
        except ResponseError as error:
            return self._refused(entries, error)
        except BaseException:
            self._tally.add(Outcome.UNKNOWN, len(entries))
            self._leave(entries[0].entry_id)
            raise
        await self._count(batch)
        return batch

    def _fall_back(self, code: str) -> Batch:
        if self._settings.settle_mode == "script":
            raise RedisRefused(
                f"SETTLE_MODE is script, but the server does not let it settle ({code}); use auto or gather"
            )
        if isinstance(self._carried.settle, ScriptSettle):
            self._use_gather(f"a script may not: {code}")
        return Batch(0)

    def _refused(self, entries: Sequence[PendingEntry], error: ResponseError) -> Batch:
        """The server would not settle any of them: its state or our rights, not the entries."""
        failure = explained(error, f"settling by {self._settle_mode}")
        for entry in entries:
            self._tally.name(Outcome.FAILED, f"refused by the server ({code_of(error)})", entry.entry_id)
        self._fail(failure)
        return Batch(len(entries))

    async def _count(self, batch: Batch) -> None:
        tally = self._tally
        for outcome, count in batch.counts.items():
            tally.add(outcome, count)
        tally.add(Outcome.LOST_RACE, batch.lost)
        for entry_id in batch.deleted:
            tally.name(Outcome.DELETED, "gone from the stream while pending", entry_id)
        for entry_id in batch.unconfirmed:
            tally.name(Outcome.FAILED, "too few replicas confirmed the hash", entry_id)
        for entry_id in batch.refused_by_server:
            tally.name(Outcome.FAILED, f"refused by the server ({batch.server_refusal})", entry_id)
        if batch.server_refusal:
            self._fail(explained(ResponseError(batch.server_refusal), f"settling by {self._settle_mode}"))
        if batch.refused:
            await self._dead_letter(batch)
        await self._refused_documents.note(batch.stored)

    async def _dead_letter(self, batch: Batch) -> None:
        counted = self._tally.candidates
        try:
            await DeadLetters(self._link, self._settings).take(batch.refused, self._tally)
        except BaseException:
            self._tally.add(Outcome.UNKNOWN, len(batch.refused) - (self._tally.candidates - counted))
            raise

    # --- stop, report -----------------------------------------------------------------------------------------------------

    async def _persist(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        return await persist(attempt, self._soft_end, self._link.reconnect)

    def _stops_at(self, entry_id: bytes) -> bool:
        """Whether the sweep is to take up nothing more; if so, notes that it got as far as ``entry_id``."""
        if self._error is None and not self._soft_end.is_over():
            return False
        if self._left_at is None or entry_id != FIRST:
            self._leave(entry_id)
        return True

    def _leave(self, entry_id: bytes) -> None:
        """The next sweep goes on at the smallest id that was left."""
        if entry_id == FIRST:
            entry_id = self._summary.smallest_id or b"0-0"
        if self._left_at is None or order_of(entry_id) < order_of(self._left_at):
            self._left_at = entry_id

    def _fail(self, error: JanitorError) -> None:
        if self._error is None:
            self._error = error

    @property
    def error(self) -> JanitorError | None:
        """What ended the sweep early, as an exception to raise."""
        return self._error

    def _report(self) -> SweepReport:
        summary, tally = self._summary, self._tally
        oldest_ms = None if summary.smallest_id is None else self._now_ms - milliseconds_of(summary.smallest_id)
        return SweepReport(
            stream=self._settings.stream,
            group=self._settings.group,
            pending=summary.total,
            candidates=tally.candidates,
            **{outcome.value: tally.counts[outcome] for outcome in Outcome},
            unsearchable=tally.unsearchable,
            duration_s=time.monotonic() - self._started_s,
            complete=self._error is None and self._left_at is None,
            oldest_pending_age_s=None if oldest_ms is None else oldest_ms / 1000,
            settle_mode=self._settle_mode,
            index=self._index_info.status,
            consumers_removed=self._removed,
            reasons=tally.reasons(),
            error=None if self._error is None else str(self._error),
        )


async def _one_of(tasks: set[asyncio.Task[None]]) -> None:
    """Wait until one of ``tasks`` has ended, take it out, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        tasks.discard(task)
    for task in done:
        task.result()


async def _all_of(tasks: set[asyncio.Task[None]]) -> None:
    while tasks:
        await _one_of(tasks)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
