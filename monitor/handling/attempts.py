"""Claims for an attempt: by attempt.lua, which raises the delivery count before the user's code runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from monitor.handling.claimed import Attempt
from monitor.pending import PendingEntry
from monitor.rate import rate_key
from monitor.scripts import attempt_script
from shared.redis_client import Argument, Command, RedisLink, Reply
from shared.settings import StreamSettings
from stream_janitor.fence import Claim

GONE: Final = b"gone"
FIRST_ARGUMENT: Final = 5
"""Of EVALSHA with two keys."""


@dataclass(slots=True)
class Claims:
    """What came of a claim for several entries."""

    now_ms: int
    """The server's clock."""
    wait_s: float
    """How long the rate limit grants nothing for the entries behind the ``tried`` first ones."""
    tried: int
    ours: list[Attempt] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    lost: int = 0


class Claimer:
    """Claims entries of one stream's group."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._script = attempt_script()
        self._group, self._consumer, self._rate_limit = settings.group, settings.consumer, settings.rate_limit
        self._keys = (settings.stream, rate_key(settings) if settings.rate_limit else settings.stream)

    async def claim(
        self, entries: Sequence[PendingEntry], threshold_ms: Callable[[int], int], first_sent_s: float | None
    ) -> Claims:
        """Claim those of ``entries`` that are still idle for as long as their delivery count asks.

        ``first_sent_s``: when this claim was first sent, by the monotonic clock, if its reply was lost.

        Raises:
            redis.exceptions.RedisError: any of them may be claimed, and its delivery count raised; a repetition finds out.
        """
        command = self.command(entries, threshold_ms, first_sent_s)
        return self.claims_of(entries, await self._script.run(self._link, self._keys, command[FIRST_ARGUMENT:]))

    def command(
        self, entries: Sequence[PendingEntry], threshold_ms: Callable[[int], int], first_sent_s: float | None = None
    ) -> Command:
        """The run of attempt.lua that ``claim`` makes, for a pipeline; a server may not have the script yet."""
        repeated_ms = -1 if first_sent_s is None else int((time.monotonic() - first_sent_s) * 1000) + 1
        head = self._script.named(
            group=self._group, consumer=self._consumer, rate_limit=self._rate_limit, repeated_ms=repeated_ms
        )
        values: list[Argument] = []
        for entry in entries:
            values += (entry.entry_id, threshold_ms(entry.deliveries), entry.deliveries)
        return self._script.command(self._keys, (*head, *values))

    def claims_of(self, entries: Sequence[PendingEntry], reply: Reply) -> Claims:
        """What the reply says of ``entries``."""
        now_ms, wait_ms, answers = reply
        claims = Claims(now_ms, wait_ms / 1000, len(answers))
        for entry, answer in zip(entries, answers, strict=False):
            if isinstance(answer, int):
                claims.ours.append(Attempt(entry, Claim(entry.entry_id, answer)))
            elif answer == GONE:
                claims.gone.append(entry.entry_id)
            else:
                claims.lost += 1
        return claims
