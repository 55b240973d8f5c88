"""Requeueing inside Redis: requeue.lua adds and acknowledges where the entries lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import NoScriptError, ResponseError

from monitor.actions.requeue_target import is_the_targets, refused_by_target
from monitor.actions.script import SCRIPT_CODES_FOR_GATHER, is_unknown_to_old_server, refusal_in_words
from monitor.batch import Batch, Refused, ScriptNotAllowed, Settler
from monitor.outcomes import BY_WIRE, Outcome
from monitor.patience import Patience
from monitor.pending import PendingEntry
from monitor.rate import rate_key
from monitor.scripts import requeue_probe_script, requeue_script
from shared.redis_client import Argument, RedisLink, Reply
from shared.retry import code_of
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

WIDE: Final = b"wide"
"""requeue.lua's word for an entry of more fields than a script can add."""


class RequeueByScript:
    """Requeues inside Redis by requeue.lua: nothing of an entry leaves the server, and one run stays under 5 ms."""

    name = "script"
    # The second run travels while the first one works; the server has one thread, so a third would only wait.
    concurrency = 2
    RUN_MS: Final = 3.0
    SMALLEST, LARGEST = 16, 512

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        by_pipelines: Settler,
        telemetry: GroupTelemetry = SILENT_GROUP,
    ) -> None:
        """``by_pipelines``: for the entries that a script cannot carry."""
        self._link = link
        self._settings = settings
        self._by_pipelines = by_pipelines
        self._telemetry = telemetry
        self._script = requeue_script()
        self._patience = Patience.of(settings)
        self._keys = keys_of(settings)
        # Ids of more than a second's entries would travel for nothing.
        self._largest = min(self.LARGEST, settings.rate_limit or self.LARGEST)
        self.batch_size = min(128, self._largest)
        self._arguments: dict[str, Argument | bool] = {
            "group": settings.group,
            "consumer": settings.consumer,
            "most_requeues": settings.max_requeues,
            "run_ms": self.RUN_MS,
            "most_traces": telemetry.most_links,
            "rate_limit": settings.rate_limit,
        }

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        joined_ids = b" ".join([entry.entry_id for entry in entries])
        min_idle_ms = self._patience.threshold_ms(entries[0].deliveries)  # they share it
        arguments = self._script.named(joined_ids=joined_ids, min_idle_ms=min_idle_ms, **self._arguments)
        try:
            async with self._link.turn_at(self._keys[0], self.concurrency):
                with self._telemetry.settle(len(entries)):
                    reply = await self._script.run(self._link, self._keys, arguments)
        except ResponseError as error:
            if code_of(error) in SCRIPT_CODES_FOR_GATHER or is_unknown_to_old_server(error):
                raise ScriptNotAllowed(refusal_in_words(error)) from None
            if is_the_targets(error):
                return refused_by_target(self._settings, error, [entry.entry_id for entry in entries])
            raise
        taken, named, *_ = reply
        if not taken and WIDE in named[1::2]:
            return await self._by_pipelines.settle(entries[:1])
        batch = self._read(entries, reply)
        if not batch.wait_s:
            self._adapt(len(entries), batch.taken)
        return batch

    def _read(self, entries: Sequence[PendingEntry], reply: Reply) -> Batch:
        """The batch by what requeue.lua returned; its head says what that is."""
        taken, named, traces, more_traces, wait_ms = reply
        batch = Batch(taken, wait_s=wait_ms / 1000, more_traces=more_traces)
        batch.traces = list(zip(traces[::2], traces[1::2], strict=True))
        batch.counts[Outcome.REQUEUED] = taken - len(named) // 2
        rows = {entry.entry_id: entry for entry in entries[:taken]} if named else {}
        for entry_id, word in zip(named[::2], named[1::2], strict=True):
            outcome = BY_WIRE.get(word)
            if outcome is None:
                batch.refused.append(Refused(rows[entry_id], word.decode()))
            elif outcome is Outcome.DELETED:
                batch.deleted.append(entry_id)
            else:
                batch.lost += 1
        return batch

    def _adapt(self, sent: int, taken: int) -> None:
        """Send what one run gets through, and a little more: ids behind its end travel for nothing."""
        if taken < sent:
            self.batch_size = min(self._largest, max(self.SMALLEST, taken + 8))
        elif sent == self.batch_size:
            self.batch_size = min(self._largest, self.batch_size + self.batch_size // 4)


def keys_of(settings: StreamSettings) -> tuple[str, ...]:
    keys = (settings.stream, settings.requeue_target)
    return (*keys, rate_key(settings)) if settings.rate_limit else keys


async def script_may_requeue(link: RedisLink, settings: StreamSettings) -> str | None:
    """None if a script may requeue this stream's entries; else the reason why not. Writes nothing.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
    """
    try:
        answer: bytes = await requeue_probe_script().run(link, keys_of(settings), (settings.group,))
    except NoScriptError:  # flushed once more between its loading and its run: no answer to what was asked
        raise
    except ResponseError as error:
        return "Redis is older than 7.0" if is_unknown_to_old_server(error) else refusal_in_words(error)
    return None if answer == b"OK" else answer.decode()
