"""Settles the abandoned entries that the walk hands over, batch by batch, and counts each of them once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError, ResponseError

from monitor.course import Course
from monitor.dead_letter import DeadLetters
from monitor.gather import GatherSettle
from monitor.index import RefusedDocuments
from monitor.pending import PendingEntry
from monitor.recovered import message, publish_command
from monitor.report import Outcome, Tally
from monitor.settle import Batch, ScriptNotAllowed, ScriptSettle, Settle, script_is_allowed
from shared.errors import JanitorError, RedisRefused, RedisUnavailable
from shared.redis_client import RedisLink
from shared.retry import FAULTS, Fault, code_of, explained, is_one_servers
from shared.settings import StreamSettings
from shared.telemetry import BatchSpan, GroupTelemetry

logger = logging.getLogger("monitor")


@dataclass(slots=True)
class Carried:
    """What one sweep leaves to the next one in the same process; a new process does without."""

    cursor: bytes | None = None
    """The id where the last sweep stopped; None: it came to the end."""
    settle: Settle | None = None
    """How entries are settled here, once the server was asked."""


class Batches:
    """One sweep's batches. The way to settle is chosen at the first one, and again if the server comes to refuse it."""

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        concurrency: int,
        carried: Carried,
        course: Course,
        tally: Tally,
        documents: RefusedDocuments,
        telemetry: GroupTelemetry,
    ) -> None:
        self._link = link
        self._settings = settings
        self._concurrency = concurrency
        self._carried = carried
        self._course = course
        self._tally = tally
        self._refused_documents = documents
        self._telemetry = telemetry
        self._settle: Settle | None = None
        self._unpublished: Counter[str] = Counter()
        self.mode = "none"
        """script or gather; none while nothing was settled."""
        self.rate_limited = False
        """The rate limit made entries wait."""

    async def choose(self) -> Settle:
        self._settle = self._settle or self._carried.settle
        if self._settle is None:
            reason = await self._reason_against_script()
            if reason:
                self._use_gather(reason)
            else:
                self._use(ScriptSettle(self._link, self._settings, self._telemetry), "a script may")
        assert self._settle is not None
        self.mode = self._settle.name
        return self._settle

    async def _reason_against_script(self) -> str | None:
        if self._settings.settle_mode == "gather":
            return "SETTLE_MODE asks for it"
        if self._settings.ack_replicas:
            return "ACK_REPLICAS asks for it"
        reason = await self._course.persist(lambda: script_is_allowed(self._link, self._settings))
        if reason and self._settings.settle_mode == "script":
            raise RedisRefused(f"SETTLE_MODE is script, but a script cannot settle here: {reason}; use auto or gather")
        return reason

    def _use(self, settle: Settle, reason: str) -> None:
        self._settle = self._carried.settle = settle
        self.mode = settle.name
        logger.info("settle mode for %s/%s: %s (%s)", self._settings.stream, self._settings.group, settle.name, reason)

    def _use_gather(self, reason: str) -> None:
        self._use(GatherSettle(self._link, self._settings, self._concurrency, self._telemetry), reason)

    async def settle_all(self, entries: list[PendingEntry]) -> None:
        """Settle a run of entries batch by batch, until they are through or the sweep is stopping."""
        while entries:
            settle = self._settle
            assert settle is not None
            if self._course.stops_at(entries[0].entry_id):
                return
            batch = await self._settle_batch(settle, entries[: settle.batch_size])
            entries = entries[batch.taken :]
            if batch.wait_s:
                self.rate_limited = True
                await self._course.pause(batch.wait_s)

    async def _settle_batch(self, settle: Settle, entries: Sequence[PendingEntry]) -> Batch:
        """Settle one batch and count each of its entries once, also when the reply is lost or the sweep is cancelled."""
        with self._telemetry.batch(len(entries)) as span:
            return await self._settle_in_span(settle, entries, span)

    async def _settle_in_span(self, settle: Settle, entries: Sequence[PendingEntry], span: BatchSpan) -> Batch:
        is_repeated = False

        async def attempt() -> Batch:
            nonlocal is_repeated
            was_repeated, is_repeated = is_repeated, True
            batch = await settle.settle(entries)
            if was_repeated:  # what the lost attempt settled now looks as if someone else had
                batch.counts[Outcome.UNKNOWN], batch.lost = batch.lost, 0
            return batch

        try:
            batch = await self._course.persist(attempt)
        except ScriptNotAllowed as refusal:
            return self._fall_back(str(refusal))
        except ResponseError as error:
            span.failed(error)
            return self._refused(entries, error)
        except BaseException:
            self._tally.add(Outcome.UNKNOWN, len(entries))
            self._course.leave(entries[0].entry_id)
            raise
        span.took(batch.taken, batch.traces, batch.more_traces)
        await self._count(batch)
        await self._tell(batch)
        return batch

    async def _tell(self, batch: Batch) -> None:
        """Tell RECOVERED_CHANNEL; everything is settled and counted by now, so nothing can fail."""
        channel = self._settings.recovered_channel
        if batch.recovered and channel is not None:
            try:
                command = publish_command(self._link.is_cluster)
                await self._link.call(command, channel, message(self._settings, batch.recovered))
            except (RedisError, JanitorError, OSError) as error:
                self._unpublished[code_of(error)] += 1

    def warn_of_unpublished(self) -> None:
        """Say once what RECOVERED_CHANNEL was not told."""
        if self._unpublished:
            codes = ", ".join(f"{count} {code}" for code, count in sorted(self._unpublished.items()))
            logger.warning(
                "%s/%s: RECOVERED_CHANNEL was not told of %d batches (%s); the entries are settled all the same",
                self._settings.stream, self._settings.group, self._unpublished.total(), codes,
            )  # fmt: skip

    def _fall_back(self, code: str) -> Batch:
        if self._settings.settle_mode == "script":
            raise RedisRefused(
                f"SETTLE_MODE is script, but the server does not let it settle ({code}); use auto or gather"
                + (", unless a slot is just being moved" if self._link.is_cluster else "")
            )
        if isinstance(self._settle, ScriptSettle):
            self._use_gather(f"a script may not: {code}")
            if self._link.is_cluster:  # perhaps only while a slot is being moved: the next sweep asks again
                self._carried.settle = None
        return Batch(0)

    def _refused(self, entries: Sequence[PendingEntry], error: ResponseError) -> Batch:
        """The server would not settle any of them: its state or our rights, not the entries."""
        limited = " under RECOVERY_RATE_LIMIT" if self._settings.rate_limit else ""
        failure = explained(error, f"settling by {self.mode}{limited}")
        for entry in entries:
            self._tally.name(Outcome.FAILED, f"refused by the server ({code_of(error)})", entry.entry_id)
        self._course.fail(failure)
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
        if batch.unconfirmed:
            self._course.note(RedisUnavailable("too few replicas confirmed what was stored (ACK_REPLICAS): see doctor"))
        for entry_id in batch.refused_by_server:
            tally.name(Outcome.FAILED, f"refused by the server ({batch.server_refusal})", entry_id)
        if batch.server_refusal:
            self._refuses(batch.refusal or ResponseError(batch.server_refusal), f"settling by {self.mode}")
        if batch.refused:
            await self._dead_letter(batch)
        await self._refused_documents.note(batch.stored)

    async def _dead_letter(self, batch: Batch) -> None:
        own = Tally()  # other batches count into the sweep's meanwhile
        letters = DeadLetters(self._link, self._settings)
        try:
            await letters.take(batch.refused, own)
        except BaseException:
            own.add(Outcome.UNKNOWN, len(batch.refused) - own.candidates)
            raise
        finally:
            self._tally.take_over(own)
        if letters.refusal:
            self._refuses(letters.refusal, "dead-lettering")

    def _refuses(self, error: Exception, doing: str) -> None:
        """A server refused a write, for a reason that the next entry there would meet too."""
        code = code_of(error)
        if self._link.is_cluster and is_one_servers(code):
            self._course.note(explained(error, doing))  # the others are well: go on with theirs
        else:
            self._course.fail(explained(error, doing))
            self._course.leads_astray = FAULTS.get(code) is Fault.RECONNECT
