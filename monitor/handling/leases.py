"""The leases on all that is in the handler's hands: renewed in one round trip, by the fence, until each is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

from redis.exceptions import RedisError

from monitor.scripts import fence_script
from shared.errors import JanitorError
from shared.redis_client import Argument, Command, RedisLink, Reply, raise_first
from shared.retry import code_of
from shared.settings import StreamSettings
from stream_janitor.fence import DELETED, HELD, MOST_ENTRIES, Change, Claim, renewed, set_arguments, states_of

logger = logging.getLogger("monitor")

RENEWALS: Final = 4
"""So many fit into the minimum idle time. One without an answer is given up when the next is due: two may be lost, and the third
still comes in time."""


class Leases:
    """What one stream's sweep holds. Belongs to one event loop."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._settings = settings
        self._every_s = settings.min_idle_ms / 1000 / RENEWALS
        self._script = fence_script()
        self._held: dict[bytes, Claim] = {}
        self._renewals: asyncio.Task[None] | None = None
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()

    def take(self, claims: Iterable[Claim]) -> None:
        """Renew these from now on."""
        self._held.update((claim.entry_id, claim) for claim in claims)
        if self._renewals is None and self._held:
            self._renewals = asyncio.create_task(self._renew_while_held())

    def drop(self, entry_ids: Iterable[bytes]) -> None:
        """Renew these no more."""
        for entry_id in entry_ids:
            self._held.pop(entry_id, None)
        if not self._held and self._renewals is not None:
            self._renewals.cancel()
            self._renewals = None

    async def until_quiet(self) -> None:
        """Wait for a renewal that is on its way: it would undo what is written of the same entries before it arrives."""
        await self._is_quiet.wait()

    def command(self, changes: Iterable[Change]) -> Command:
        """The run of fence.lua that makes ``changes``; at most MOST_ENTRIES of them."""
        arguments = set_arguments(self._settings.group, self._settings.consumer, changes)
        return self._script.command((self._settings.stream,), arguments)

    async def send(self, commands: Sequence[Command]) -> list[Reply]:
        """Commands that may run fence.lua, in one round trip.

        Raises:
            redis.exceptions.RedisError: the first error among their replies, or nothing is known.
        """
        replies = await self._script.write_and_wait(self._link, commands, 0)
        raise_first(replies)
        return replies

    async def _renew_while_held(self) -> None:
        due_s = time.monotonic()
        while self._held:
            due_s = max(due_s + self._every_s, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())
            self._is_quiet.clear()
            try:
                await asyncio.wait_for(self._renew(), self._every_s)
            except (RedisError, JanitorError, OSError, asyncio.TimeoutError) as error:
                logger.warning(
                    "%s: %d leases were not renewed (%s); trying again in %g s",
                    self._settings.label, len(self._held), code_of(error), self._every_s,
                )  # fmt: skip
            finally:
                self._is_quiet.set()

    async def _renew(self) -> None:
        claims = list(self._held.values())
        slices = [claims[at : at + MOST_ENTRIES] for at in range(0, len(claims), MOST_ENTRIES)]
        replies = await self.send([self.command(map(renewed, some)) for some in slices])
        for some, reply in zip(slices, replies, strict=True):
            self._note(some, states_of(reply))

    def _note(self, claims: Sequence[Claim], states: Sequence[Argument]) -> None:
        for claim, state in zip(claims, states, strict=True):
            if state == HELD or self._held.get(claim.entry_id) is not claim:
                continue
            with contextlib.suppress(KeyError):
                del self._held[claim.entry_id]
            if state == DELETED:
                logger.warning(
                    "%s: entry %s was deleted from the stream while it is being handled",
                    self._settings.label, claim.entry_id.decode(),
                )  # fmt: skip
