"""Requeueing from here: for older servers, for targets in another slot, and where replicas have to confirm.

Round trips of one batch: XRANGE (read), XCLAIM with the minimum idle time (ours from here on), XADD to the target, each reply
looked at and confirmed as ACK_REPLICAS asks, XACK of what was added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis import exceptions as redis_errors

from monitor.actions.requeue_target import note_refusal
from monitor.batch import Batch, Refused
from monitor.moving import Moving
from monitor.outcomes import REQUEUED_TOO_OFTEN, Outcome
from monitor.pipelines import Held
from monitor.requeued import requeued
from shared.redis_client import Command, TooFewReplicas

REPLY_LOST: Final = "the reply was lost: it may have been added, and is pending"


class RequeueByPipelines(Moving):
    """Adds to the target."""

    async def _move(self, ours: Sequence[Held], batch: Batch) -> None:
        ids: list[bytes] = []
        commands: list[Command] = []
        for entry, fields in ours:
            made = requeued(entry.entry_id, fields, self._settings.max_requeues)
            if made is None:
                batch.refused.append(Refused(entry, REQUEUED_TOO_OFTEN))
            else:
                ids.append(entry.entry_id)
                commands.append(("XADD", self._settings.requeue_target, "*", *made))
        if commands:
            await self._acknowledge(await self._add(ids, commands, batch), batch)

    async def _add(self, ids: Sequence[bytes], commands: Sequence[Command], batch: Batch) -> list[bytes]:
        """Those that are in the target now."""
        added = []
        replies = await self._link.write_and_wait(commands, self._settings.ack_replicas)
        for entry_id, reply in zip(ids, replies, strict=True):
            if isinstance(reply, TooFewReplicas):
                batch.unconfirmed.append(entry_id)
                batch.unconfirmed_what = "the new entry, which is there"
            elif isinstance(reply, (redis_errors.ConnectionError, redis_errors.TimeoutError)):  # in a cluster
                note_refusal(self._settings, reply, (), batch)
                batch.named.append((Outcome.UNKNOWN, REPLY_LOST, entry_id))
            elif isinstance(reply, Exception):
                note_refusal(self._settings, reply, (entry_id,), batch)
            else:
                added.append(entry_id)
        return added

    async def _acknowledge(self, added: Sequence[bytes], batch: Batch) -> None:
        if not added:
            return
        with self._telemetry.settle(len(added)):
            acknowledged: int = await self._link.call("XACK", self._settings.stream, self._settings.group, *added)
        # Fewer than sent: a slow consumer finished after all. Which one is not told; the copy is there all the same.
        batch.counts[Outcome.REQUEUED] += acknowledged
        batch.lost += len(added) - acknowledged
