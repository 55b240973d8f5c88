"""One sweep over one consumer group, top to bottom.

Open (one round trip: what is pending, the server's time, the index) → walk the pending entries list page by page → settle
the abandoned entries of each page, batch by batch → look at what the index refused → remove dead consumers → trim what every
group has finished with → report.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from redis import exceptions as redis_errors
from redis.exceptions import RedisError

from monitor.actions import Observer, action_for
from monitor.batches import Batches
from monitor.brake import Brake
from monitor.context import ResumeState, SweepContext
from monitor.decide import last_id_worth_reading
from monitor.index import RefusedDocuments, SearchIndex
from monitor.opening import Opening, in_words, open_sweep
from monitor.outcomes import Outcome
from monitor.patience import Group, Patience
from monitor.report import SweepReport, Tally, report_of, retained_fields
from monitor.sweep_state import SweepState
from monitor.walk import Walk, ranges_from
from shared.errors import JanitorError, RedisUnavailable, SweepBroke
from shared.retry import to_user_error
from shared.telemetry import Standing, SweepFacts

if TYPE_CHECKING:
    from monitor.observation import Observation
    from monitor.stream_retention import StreamRetention

__all__ = ["ResumeState", "Sweep", "SweepContext"]


class Sweep:
    """One pass over one group's pending entries list; ``run`` it once."""

    def __init__(self, context: SweepContext, resume: ResumeState) -> None:
        self._state = SweepState(context.link, context.budget_s)
        self._context = context = replace(context, state=self._state)
        self._resume = resume
        self._started_s = time.monotonic()
        self._action = action_for(context, resume)
        self._opening = Opening()
        self._batches: Batches | None = None
        """None while nothing was pending."""
        self._observation: Observation | None = None
        self._retention = _retention_of(context)
        self._removed = 0
        self._looked_at = self._found = self._waiting = 0

    async def run(self) -> SweepReport:
        """Sweep, within the budget; whatever happens there is a report, and ``error`` says what ended it early."""
        with self._context.telemetry.sweep() as tell:
            await self._sweep_in_budget()
            if self._batches is not None:
                self._batches.warn_of_unpublished()
            report = self._report()
            outcomes = {outcome.value: self._tally.counts[outcome] for outcome in Outcome}
            tell(SweepFacts(report, outcomes, report.reasons, self._standing, self._state.error))
        return report

    async def _sweep_in_budget(self) -> None:
        state = self._state
        try:
            await asyncio.wait_for(self._sweep(), state.left_s)
        except asyncio.TimeoutError:
            state.fail(to_user_error(redis_errors.TimeoutError(), "the sweep"))
        except RedisError as error:
            state.fail(in_words(error, "the sweep", self._context.settings))
        except JanitorError as error:
            state.fail(error)
        except ImportError as error:  # its text names the module and nothing else
            state.fail(SweepBroke(f"the package is not complete: {error}"))
        except Exception as error:  # noqa: BLE001 - a garbled reply, or a fault of ours: the other streams go on
            name = type(error).__name__  # never its text, which may quote an entry
            state.fail(
                SweepBroke(f"the sweep met an error that nobody foresaw ({name}): what it had in hand stays pending")
            )
        self._resume.cursor = state.left_at
        if state.needs_reconnect:
            await self._context.link.reconnect()

    def stop(self) -> None:
        """Begin nothing more: the batches in flight are finished, and the report says that the sweep is not complete."""
        self._state.stop()

    @property
    def was_stopped(self) -> bool:
        """Whether ``stop`` ended it."""
        return self._state.was_stopped

    @property
    def error(self) -> JanitorError | None:
        """What ended the sweep early, as an exception to raise."""
        return self._state.error

    @property
    def progress(self) -> tuple[int, int]:
        """Of how many pending entries how many are through by now: too young, or settled."""
        return self._opening.summary.total, self._looked_at - self._found + self._tally.candidates

    async def _sweep(self) -> None:
        context, state, settings = self._context, self._state, self._context.settings
        index = SearchIndex(context.link, settings, self._resume.aliases) if self._action.uses_index else None
        self._opening = await open_sweep(context, index, state.retry, self._retention)
        self._resume.clock.note(settings, self._opening.clock)
        if isinstance(self._action, Observer):
            self._observation = await self._action.look(self._opening, state)
        elif self._opening.summary.total:
            documents = RefusedDocuments(index, self._opening.index) if index else None
            self._resume.brake = self._resume.brake or Brake(settings.dead_letter_brake)
            self._batches = Batches(context, state, self._action, self._resume.brake, documents)
            await self._walk(self._batches)
            await self._batches.finish()
        if settings.reap_after_ms and not state.error and not isinstance(self._action, Observer):
            self._removed = await self._resume.reaper.reap(context.link, settings, lambda: state.is_ending)
        # Also after an error: a server that is full has less to hold then.
        if self._retention is not None and not isinstance(state.error, RedisUnavailable):
            await self._retain(self._retention)

    async def _retain(self, retention: StreamRetention) -> None:
        try:
            await retention.run(self._state)
        except RedisError as error:
            self._state.note(to_user_error(error, "retention"))
        except JanitorError as error:
            self._state.note(error)
        retention.warn()

    async def _walk(self, batches: Batches) -> None:
        """Settle what is abandoned on each page while the next one is read."""
        opening, state, patience = self._opening, self._state, Patience.of(self._context.settings)
        end = last_id_worth_reading(opening.summary, opening.now_ms, patience.min_idle_ms)
        walk = Walk(self._context.link, self._context.settings, self._context.page_size)
        in_flight: set[asyncio.Task[None]] = set()
        try:
            async for rows in walk.pages(ranges_from(self._resume.cursor, end), state.stops_at, state.retry):
                page = patience.sort(rows, self._action.mixes_thresholds)
                self._looked_at += len(rows)
                self._found += page.found
                self._waiting += page.waiting
                for group in page.groups:
                    await self._dispatch(group, batches, in_flight)
            await _all_of(in_flight)
        except BaseException:
            state.leave(walk.position)
            raise
        finally:
            await _cancel(in_flight)

    async def _dispatch(self, group: Group, batches: Batches, in_flight: set[asyncio.Task[None]]) -> None:
        """Give a page's entries to as many workers as batches may be in flight; wait for room, not for the end.

        Entries of a full page stay together, as another page follows for the next worker; a shorter list is shared, in whole
        batches where the settler wants them.
        """
        entries, settler = group.entries, await batches.settler_for(group.is_capped)
        whole = settler.keeps_whole_batches
        workers = 1 if len(entries) >= self._context.page_size and not whole else settler.concurrency
        size = -(-len(entries) // workers)
        if whole:
            size = -(-size // settler.batch_size) * settler.batch_size
        for at in range(0, len(entries), size):
            while len(in_flight) >= settler.concurrency:
                await _one_of(in_flight)
            in_flight.add(asyncio.create_task(batches.settle_all(entries[at : at + size], group.is_capped)))

    # --- report -----------------------------------------------------------------------------------------------------------

    @property
    def _tally(self) -> Tally:
        return self._batches.tally if self._batches else Tally()

    @property
    def _standing(self) -> Standing | None:
        standing, retained = self._opening.standing, self._retention and self._retention.stream
        if standing is None or not retained:
            return standing
        length = standing.stream_length if retained.stream_length is None else retained.stream_length
        return replace(standing, stream_length=length, retention_held_s=retained.held_for_s(self._opening.now_ms))

    def _report(self) -> SweepReport:
        opening, state, batches = self._opening, self._state, self._batches
        return report_of(
            self._context.settings,
            opening.summary,
            opening.now_ms,
            self._tally,
            opening.clock,
            duration_s=time.monotonic() - self._started_s,
            complete=state.is_complete,
            settle_mode=batches.mode if batches else "none",
            index=opening.index.status,
            consumers_removed=self._removed,
            error=None if state.error is None else str(state.error),
            observed=self._observation,
            rate_limited=batches is not None and batches.rate_limited,
            waiting=self._waiting,
            **retained_fields(self._retention, opening.standing),
        )


def _retention_of(context: SweepContext) -> StreamRetention | None:
    settings = context.settings
    if not settings.retains:
        return None
    from monitor.stream_retention import StreamRetention  # a cold start pays for imports

    return StreamRetention(context.link, settings, dry_run=settings.action == "observe")


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
