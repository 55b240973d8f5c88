"""Entries carried here: read, then claimed, so that they are ours while something is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from monitor.batch import Batch
from monitor.claims import Claims
from monitor.entry_reader import TOO_LARGE, EntryReader, TooLargeToCarry
from monitor.gone import Gone
from monitor.outcomes import Outcome
from monitor.patience import Patience
from monitor.pending import PendingEntry
from monitor.portion import Portion
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

SMALLEST: Final = 4


class Fetched(NamedTuple):
    """What was carried here of a batch."""

    batch: Batch
    """What became of it so far."""
    entries: Sequence[PendingEntry]
    """Those of the batch."""
    ours: list[tuple[PendingEntry, list[bytes]]]
    """Entries that were claimed, with their names and values in turn."""
    missing: list[bytes]
    """Ids that the stream did not have when it was read; ``take_off`` says what they are."""


class Fetch:
    """Reads and claims entries of one stream's group; ``portion.size`` says how many at a time."""

    def __init__(
        self,
        link: RedisLink,
        settings: StreamSettings,
        most: int,
        telemetry: GroupTelemetry = SILENT_GROUP,
        replicas: int | None = 0,
    ) -> None:
        """``most`` entries at a time, and no more than a second's under a rate limit: others would be read for nothing.

        ``replicas`` have to confirm the claim, as ``RedisLink.write_and_wait`` has it.
        """
        self.portion = Portion(SMALLEST, min(most, settings.rate_limit or most))
        self._patience = Patience.of(settings)
        self._reader = EntryReader(link, settings.stream, self.portion)
        self._claims = Claims(link, settings, telemetry, replicas)
        self._gone = Gone(link, settings)

    async def fetch(self, entries: Sequence[PendingEntry]) -> Fetched:
        """Read ``entries``, which share a threshold, and claim those that are there and still idle; safe to repeat.

        A batch whose reply was lost is repeated with one entry, not with as many as could not come.

        Raises:
            redis.exceptions.RedisError: any of them may be claimed, and none is acknowledged.
        """
        entries = entries[:1] if self.portion.is_careful else entries
        batch = Batch(len(entries))
        ids = [entry[0] for entry in entries]
        try:
            held = await self._reader.read(ids)
        except TooLargeToCarry:
            batch.named.append((Outcome.FAILED, TOO_LARGE, ids[0]))
            return Fetched(batch, entries, [], [])
        pairs = list(zip(entries, held, strict=True))
        missing: list[bytes] = []
        if None in held:
            missing = [entry[0] for entry, fields in pairs if fields is None]
            pairs = [pair for pair in pairs if pair[1] is not None]
        if not pairs:
            return Fetched(batch, entries, [], missing)
        present = [entry[0] for entry, _ in pairs] if missing else ids
        claimed = await self._claims.claim(present, self._threshold_ms(entries))
        if not claimed.is_confirmed:
            batch.unconfirmed, batch.unconfirmed_what = present, "the claim"
            return Fetched(batch, entries, [], missing)
        batch.wait_s = claimed.wait_s
        batch.lost += claimed.tried - len(claimed.ids)
        if claimed.tried < len(present):
            batch.taken = ids.index(present[claimed.tried])
            missing = [entry_id for entry_id in missing if entry_id in ids[: batch.taken]]
        if len(claimed.ids) < len(pairs):
            pairs = [pair for pair in pairs if pair[0][0] in claimed.ids]
        return Fetched(batch, entries, pairs, missing)  # type: ignore[arg-type]

    async def take_off(self, fetched: Fetched) -> None:
        """Count the missing ones, and take off the list what was deleted from the stream.

        Last: an error before this leaves them on the list, for the next attempt to count.
        """
        if fetched.missing:
            await self._gone.count(fetched.missing, self._threshold_ms(fetched.entries), fetched.batch)

    def _threshold_ms(self, entries: Sequence[PendingEntry]) -> int:
        return self._patience.threshold_ms(entries[0].deliveries)
