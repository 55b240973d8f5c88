"""Carries out a call's verdicts: acknowledge, give back, undo, or hand over to quarantine; each entry gets one outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from redis.exceptions import RedisError

from monitor.batch import Batch, Refused
from monitor.context import SweepContext
from monitor.handling.claimed import Attempt
from monitor.handling.leases import Leases
from monitor.handling.verdicts import Verdict, Verdicts
from monitor.outcomes import Outcome, fault_of_handler
from monitor.sweep_state import SweepState
from shared.errors import HandlerUnusable, JanitorError
from shared.redis_client import Command
from shared.retry import Deadline, code_of, retry
from stream_janitor import Dead, Done, Retry, Unavailable
from stream_janitor.fence import DELETED, HELD, Change, given_back, renewed, states_of, undone

logger = logging.getLogger("monitor")

FOR_THE_REST_S: Final = 0.2
"""Of the sweep's time: what comes after the last retry has to fit in."""


@dataclass(slots=True)
class _Plan:
    """What to do with the entries of one call."""

    done: list[bytes] = field(default_factory=list)
    kept: list[tuple[Change, Outcome, str]] = field(default_factory=list)
    """They stay pending: what XPENDING is to show, the outcome, the reason."""
    dead: list[tuple[Change, Refused]] = field(default_factory=list)
    away: list[tuple[Change, Unavailable]] = field(default_factory=list)


class Settling:
    """Carries out what one stream's handler said."""

    def __init__(
        self, context: SweepContext, state: SweepState, leases: Leases, threshold_ms: Callable[[int], int]
    ) -> None:
        self._link, self._settings = context.link, context.settings
        self._state, self._leases, self._threshold_ms = state, leases, threshold_ms

    async def carry_out(self, attempts: Sequence[Attempt], verdicts: Verdicts, batch: Batch) -> bool:
        """Do what ``verdicts`` say of ``attempts``, and note it in ``batch``; whether any of them was Unavailable.

        Raises:
            redis.exceptions.RedisError: the server did not take it until the sweep's end; each may be done or not.
        """
        self._leases.drop(attempt.entry_id for attempt in attempts)
        plan = self._plan(attempts, verdicts)
        if plan.away:
            reason = plan.away[0][1].reason
            self._state.fail(HandlerUnusable(f"the handler is unavailable: {reason}"))
        await self._leases.until_quiet()
        await self._undo(plan, batch)
        await self._write(plan, batch)
        return bool(plan.away)

    def _plan(self, attempts: Sequence[Attempt], verdicts: Verdicts) -> _Plan:
        plan = _Plan()
        for attempt in attempts:
            self._add(plan, attempt, verdicts.by_id[attempt.entry_id.decode()])
        return plan

    def _add(self, plan: _Plan, attempt: Attempt, verdict: Verdict) -> None:
        claim = attempt.claim
        if isinstance(verdict, Done):
            plan.done.append(attempt.entry_id)
        elif isinstance(verdict, Unavailable):
            due_ms = self._threshold_ms(attempt.found.deliveries)
            plan.away.append((undone(claim, _idle_ms(due_ms, verdict.after_s or 0.0)), verdict))
        elif isinstance(verdict, Dead):
            entry = attempt.found._replace(deliveries=claim.deliveries)
            plan.dead.append((renewed(claim), Refused(entry, fault_of_handler(verdict.reason))))
        elif isinstance(verdict, Retry):
            due_ms = self._threshold_ms(claim.deliveries)
            idle_ms = 0 if verdict.after_s is None else _idle_ms(due_ms, verdict.after_s)
            plan.kept.append((given_back(claim, idle_ms), Outcome.RETRIED, verdict.reason or "the handler asks for it"))
        else:
            plan.kept.append((given_back(claim, 0), Outcome.FAILED, verdict.reason))

    # --- the writes ---------------------------------------------------------------------------------------------------------

    async def _write(self, plan: _Plan, batch: Batch) -> None:
        changes = [change for change, *_ in plan.kept] + [change for change, _ in plan.dead]
        commands: list[Command] = []
        if plan.done:
            commands.append(("XACK", self._settings.stream, self._settings.group, *plan.done))
        if changes:
            commands.append(self._leases.command(changes))
        if not commands:
            return
        is_repeated = -1

        async def attempt() -> list[object]:
            nonlocal is_repeated
            is_repeated += 1
            return await self._leases.send(commands)

        deadline = Deadline.after(self._state.left_s - FOR_THE_REST_S)
        replies = await retry(attempt, deadline, self._link.reconnect)
        if plan.done:
            self._count_done(len(plan.done), int(str(replies[0])), bool(is_repeated), batch)
        if changes:
            await self._count_changed(plan, states_of(replies[-1]), batch)  # type: ignore[arg-type]

    def _count_done(self, count: int, acknowledged: int, is_repeated: bool, batch: Batch) -> None:
        """What is done is done; but whom an acknowledgement belongs to is not known after a lost reply."""
        batch.counts[Outcome.HANDLED] += acknowledged
        if is_repeated:
            batch.counts[Outcome.UNKNOWN] += count - acknowledged
        else:
            batch.lost += count - acknowledged

    async def _count_changed(self, plan: _Plan, states: Sequence[str | int], batch: Batch) -> None:
        deleted: list[bytes] = []
        for (change, outcome, reason), state in zip(plan.kept, states, strict=False):
            if state == HELD:
                batch.named.append((outcome, reason, change.claim.entry_id))
            else:
                self._count_lost(change, state, deleted, batch)
        for (change, refused), state in zip(plan.dead, states[len(plan.kept) :], strict=True):
            if state == HELD:
                batch.refused.append(refused)
            else:
                self._count_lost(change, state, deleted, batch)
        if deleted:  # below Redis 7.0 they are on the list until they are acknowledged
            await self._link.call("XACK", self._settings.stream, self._settings.group, *deleted)

    def _count_lost(self, change: Change, state: str | int, deleted: list[bytes], batch: Batch) -> None:
        if state == DELETED:
            deleted.append(change.claim.entry_id)
            batch.deleted.append(change.claim.entry_id)
        else:
            batch.lost += 1

    async def _undo(self, plan: _Plan, batch: Batch) -> None:
        """Once only: a repetition after a lost reply could take a rival's claim for ours (fence.lua)."""
        if not plan.away:
            return
        for change, verdict in plan.away:
            reason = f"handler unavailable: {verdict.reason}"
            batch.named.append((Outcome.FAILED, reason, change.claim.entry_id))
        try:
            await self._leases.send([self._leases.command([change for change, _ in plan.away])])
        except (RedisError, JanitorError) as error:
            logger.warning(
                "%s: %d attempts that were none count as ones (%s)",
                self._settings.label, len(plan.away), code_of(error),
            )  # fmt: skip


def _idle_ms(due_ms: int, after_s: float) -> int:
    """The idle time that makes an entry due in ``after_s`` seconds; as late as it would be due anyway, at the latest."""
    return max(due_ms - int(after_s * 1000), 0)
