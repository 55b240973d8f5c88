"""Settling inside Redis: one script claims, acts and acknowledges where the entries lie, and nothing of them leaves the server.

What settle.lua and requeue.lua have in common for their caller; bounded.lua is the same for themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from redis.exceptions import NoScriptError, ResponseError

from monitor.batch import Batch, Refused, ScriptNotAllowed
from monitor.outcomes import BY_WIRE, Outcome
from monitor.patience import Patience
from monitor.pending import PendingEntry
from monitor.rate import rate_key
from monitor.scripts import Script
from shared.advice import missing_right
from shared.redis_client import Argument, RedisLink, Reply
from shared.retry import code_of
from shared.settings import StreamSettings
from shared.telemetry import GroupTelemetry

CODES_FOR_GATHER: Final = ("CROSSSLOT", "NOPERM", "MOVED", "ASK")


class InScripts(ABC):
    """Settles by runs of a script, each of which stays under 5 ms."""

    name = "script"
    keeps_whole_batches = False
    # The second run travels while the first one works; the server has one thread, so a third would only wait.
    concurrency = 2
    RUN_MS: Final = 3.0
    SMALLEST, LARGEST, FIRST = 16, 512, 128
    settled_as: ClassVar[Outcome]
    """What became of the entries that the script does not name."""

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        telemetry: GroupTelemetry,
        script: Script,
        keys: tuple[str, ...],
        arguments: Mapping[str, Argument | bool],
    ) -> None:
        """``keys``: all but the rate limit's; ``arguments``: those that the other script does not have."""
        self._link = link
        self._telemetry = telemetry
        self._script = script
        self._patience = Patience.of(settings)
        self._keys = keys_for(settings, *keys)
        # Ids of more than a second's entries would travel for nothing.
        self._largest = min(self.LARGEST, settings.rate_limit or self.LARGEST)
        self.batch_size = min(self.FIRST, self._largest)
        self.arguments: dict[str, Argument | bool] = {
            "group": settings.group,
            "consumer": settings.consumer,
            "run_ms": self.RUN_MS,
            "most_traces": telemetry.most_links,
            "rate_limit": settings.rate_limit,
            **arguments,
        }

    @abstractmethod
    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        """As ``Settler`` has it."""

    async def _run(self, entries: Sequence[PendingEntry]) -> Reply:
        joined_ids = b" ".join([entry.entry_id for entry in entries])
        min_idle_ms = self._patience.threshold_ms(entries[0].deliveries)  # they share it
        arguments = self._script.named(joined_ids=joined_ids, min_idle_ms=min_idle_ms, **self.arguments)
        try:
            async with self._link.turn_at(self._keys[0], self.concurrency):
                with self._telemetry.settle(len(entries)):
                    return await self._script.run(self._link, self._keys, arguments)
        except ResponseError as error:
            if code_of(error) in CODES_FOR_GATHER or _is_unknown_to_old_server(error):
                raise ScriptNotAllowed(_in_words(error)) from None
            raise

    def _batch_of(self, entries: Sequence[PendingEntry], reply: Reply) -> Batch:
        """What the script returned, which its head explains; the next batch follows what this one got through."""
        taken, named, traces, more_traces, wait_ms = reply[:5]
        batch = Batch(taken, wait_s=wait_ms / 1000, more_traces=more_traces)
        batch.traces = list(zip(traces[::2], traces[1::2], strict=True))
        batch.counts[self.settled_as] = taken - len(named) // 2
        rows = {entry.entry_id: entry for entry in entries[:taken]} if named else {}
        for entry_id, word in zip(named[::2], named[1::2], strict=True):
            outcome = BY_WIRE.get(word)
            if outcome is None:
                batch.refused.append(Refused(rows[entry_id], word.decode()))
            elif outcome is Outcome.DELETED:
                batch.deleted.append(entry_id)
            elif outcome is Outcome.LOST_RACE:
                batch.lost += 1
            else:
                batch.counts[outcome] += 1
        if not batch.wait_s:
            self._adapt(len(entries), taken)
        return batch

    def _adapt(self, sent: int, taken: int) -> None:
        """Send what one run gets through, and a little more: ids behind its end travel for nothing."""
        if taken < sent:
            self.batch_size = min(self._largest, max(self.SMALLEST, taken + 8))
        elif sent == self.batch_size:
            self.batch_size = min(self._largest, self.batch_size + self.batch_size // 4)


def keys_for(settings: StreamSettings, *keys: str) -> tuple[str, ...]:
    """A script's ``keys``, and behind them that of the rate limit where there is one."""
    return (*keys, rate_key(settings)) if settings.rate_limit else keys


async def reason_why_not(
    probe: Script, link: RedisLink, keys: Sequence[Argument], arguments: Sequence[Argument]
) -> str | None:
    """None if ``probe`` says that a script may settle; else the reason why not. Writes nothing.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
    """
    try:
        answer: bytes = await probe.run(link, keys, arguments)
    except NoScriptError:  # flushed once more between its loading and its run: no answer to what was asked
        raise
    except ResponseError as error:
        return "Redis is older than 7.0" if _is_unknown_to_old_server(error) else _in_words(error)
    return None if answer == b"OK" else answer.decode()


def _is_unknown_to_old_server(error: ResponseError) -> bool:
    """Below 7.0 the shebang line is a compile error."""
    return "compiling script" in str(error)


def _in_words(error: ResponseError) -> str:
    code = code_of(error)
    return f"the Redis user lacks {missing_right(error)}" if code == "NOPERM" else code
