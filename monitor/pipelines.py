"""Settling from here, by pipelines: entries are read and claimed, something is done with those that are ours, and what the
stream does not have is taken off the list.

Several batches are in flight at once. A write and its XACK never share a pipeline: the XACK would run although the write failed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from monitor.batch import Batch
from monitor.fetch import Fetch
from monitor.pending import PendingEntry
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

Held: TypeAlias = "tuple[PendingEntry, list[bytes]]"
"""An entry that is ours, with its names and values in turn, byte for byte."""


class Pipelines(ABC):
    """Claims with the minimum idle time, then acts; ``concurrency`` batches overlap."""

    name = "gather"
    keeps_whole_batches = False
    LARGEST = 128

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        concurrency: int,
        telemetry: GroupTelemetry = SILENT_GROUP,
        replicas: int | None = 0,
    ) -> None:
        """``replicas`` have to confirm the claim, as ``RedisLink.write_and_wait`` has it."""
        self.concurrency = concurrency
        self._link = link
        self._settings = settings
        self._telemetry = telemetry
        self._fetch = Fetch(link, settings, self.LARGEST, telemetry, replicas)

    @property
    def batch_size(self) -> int:
        return self._fetch.portion.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._fetch.portion.size = size

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        async with self._link.turn_at(self._settings.stream, self.concurrency):
            fetched = await self._fetch.fetch(entries)
            await self._act(fetched.ours, fetched.batch)
            await self._fetch.take_off(fetched)
        return fetched.batch

    @abstractmethod
    async def _act(self, ours: Sequence[Held], batch: Batch) -> None:
        """Do what is to be done with what is ours, which may be nothing; ``batch`` notes what became of it."""
