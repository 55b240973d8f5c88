"""``observe``: looks, and claims nothing, writes nothing, creates nothing. Needs +xpending +xrange +time.

Every sweep asks for the summary and reads a sample of the abandoned entries, each sweep the next ones; the whole list is
walked once a minute at most. What would need more rights is unknown.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from redis.exceptions import ResponseError

from monitor import consumers
from monitor.actions import Retry
from monitor.actions.requeue import cannot_see_groups, others_would_see
from monitor.batch import ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext
from monitor.decide import abandoned, last_id_worth_reading
from monitor.forecast import Forecast, by_every_action, capped, read_fields
from monitor.group_stats import other_groups
from monitor.observation import IDLE_NAMES, Observation, Observing, Walked, summed
from monitor.opening import Opening
from monitor.pending import PendingEntry, following
from monitor.settle_mode import SettleMode
from monitor.sweep_state import SweepState
from monitor.walk import Walk, ranges_from
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

MOST_BODIES: Final = 200
MOST_BYTES: Final = 2_000_000
MOST_PAGES: Final = 5
"""Of the list, for a sample: where most is too young to look at, the sample is smaller."""
WALK_EVERY_S: Final = 60.0


class ObserveAction:
    """Looks at one stream."""

    uses_index = mixes_thresholds = False

    def __init__(self, context: SweepContext, resume: ResumeState) -> None:
        self._context = context
        resume.observing = resume.observing or Observing()
        self._observing = resume.observing

    @classmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        return SettleMode("none", "nothing is settled", "ACTION=observe")

    async def settler(self, retry: Retry) -> Settler:
        raise AssertionError("nothing is settled here")

    def fall_back(self, refusal: ScriptNotAllowed) -> None:
        raise AssertionError("nothing is settled here") from refusal

    async def look(self, opening: Opening, state: SweepState) -> Observation:
        """What is there, and what each action would do with a sample of it.

        Raises:
            redis.exceptions.RedisError: the list or an entry could not be read.
        """
        if self._observing.walked is None or time.monotonic() - self._observing.walked.at_s >= WALK_EVERY_S:
            self._observing.walked = await self._walked(opening, state)
        walked = self._observing.walked
        forecasts = await self._foreseen(opening, state)
        return Observation(
            abandoned=walked.abandoned,
            walked_s_ago=round(time.monotonic() - walked.at_s, 3),
            is_whole=walked.is_whole,
            idle=dict(zip(IDLE_NAMES, walked.idle, strict=True)),
            sample=max((len(ones) for ones in forecasts.values()), default=0),
            would=summed(forecasts),
            would_remove_consumers=await self._dead_consumers(),
            notes=await self._notes() if forecasts else (),
        )

    async def _walked(self, opening: Opening, state: SweepState) -> Walked:
        context = self._context
        walked = Walked(time.monotonic())
        if opening.summary.total:
            end = last_id_worth_reading(opening.summary, opening.now_ms, context.settings.min_idle_ms)
            walk = Walk(context.link, context.settings, context.page_size)
            async for rows in walk.pages(ranges_from(None, end), state.stops_at, state.retry):
                walked.count(abandoned(rows, context.settings.min_idle_ms))
        walked.is_whole = state.left_at is None
        return walked

    # --- the sample ---------------------------------------------------------------------------------------------------------

    async def _foreseen(self, opening: Opening, state: SweepState) -> dict[str, list[Forecast]]:
        context, found = self._context, dict[str, list[Forecast]]()
        async with aclosing(self._sample(opening, state)) as sample:
            async for entries, fields in sample:
                ids = [entry.entry_id for entry in entries]
                caps = [capped(entry, context.settings) for entry in entries]
                for action, ones in (await by_every_action(context.link, context.settings, ids, fields)).items():
                    expected = [cap or one for cap, one in zip(caps, ones, strict=True)]
                    found.setdefault(action, []).extend(expected)
        return found

    async def _sample(
        self, opening: Opening, state: SweepState
    ) -> AsyncGenerator[tuple[Sequence[PendingEntry], list[list[bytes] | None]], None]:
        """Bodies in small groups, MOST_BODIES and about MOST_BYTES of them; the cursor follows what was read."""
        entries = await self._next_entries(opening, state)
        size, left, heaviest = 1, MOST_BYTES, 1
        while entries and left >= heaviest:
            size = max(1, min(size, left // heaviest))
            group, entries = entries[:size], entries[size:]
            ids = [entry.entry_id for entry in group]
            fields = await read_fields(self._context.link, self._context.settings.stream, ids)
            weights = [sum(map(len, held)) for held in fields if held]
            left -= sum(weights)
            heaviest = max([heaviest, *weights])
            self._observing.cursor = following(ids[-1])
            yield group, fields
            size = min(2 * size, 64)

    async def _next_entries(self, opening: Opening, state: SweepState) -> Sequence[PendingEntry]:
        """The abandoned entries that follow those of the last sample, from the head again after the last one."""
        context = self._context
        if not opening.summary.total:
            return []
        end = last_id_worth_reading(opening.summary, opening.now_ms, context.settings.min_idle_ms)
        walk = Walk(context.link, context.settings, min(MOST_BODIES, context.page_size))
        found: list[PendingEntry] = []
        pages = 0
        async with aclosing(walk.pages(ranges_from(self._observing.cursor, end), retry=state.retry)) as all_rows:
            async for rows in all_rows:
                found += abandoned(rows, context.settings.min_idle_ms)
                pages += 1
                if len(found) >= MOST_BODIES or pages >= MOST_PAGES:
                    break
        return found[:MOST_BODIES]

    # --- what needs more rights ---------------------------------------------------------------------------------------------

    async def _dead_consumers(self) -> int | None:
        """How many would be removed; None if that is off, or not to be seen."""
        context = self._context
        if not context.settings.reap_after_ms:
            return None
        try:
            return len(consumers.dead(context.settings, await consumers.listed(context.link, context.settings)))
        except ResponseError:
            return None

    async def _notes(self) -> tuple[str, ...]:
        """Whether requeue would be refused, since others read the stream."""
        settings = self._context.settings
        if settings.requeue_target != settings.stream or settings.requeue_with_other_groups:
            return ()
        try:
            others, _ = await other_groups(self._context.link, settings.stream, settings.group)
        except ResponseError:
            return (cannot_see_groups(settings),)
        return (others_would_see(settings, others),) if others else ()
