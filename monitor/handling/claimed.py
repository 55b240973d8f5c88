"""An entry in the handler's hands, as the janitor sees it and as the handler does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.pending import PendingEntry, age_s
from shared.settings import StreamSettings
from stream_janitor import Entry
from stream_janitor.fence import Claim


@dataclass(frozen=True, slots=True)
class Attempt:
    """An entry that we claimed for a call."""

    found: PendingEntry
    """Its row before the claim: whose it was, how often it had been delivered."""
    claim: Claim

    @property
    def entry_id(self) -> bytes:
        return self.found.entry_id

    def as_entry(self, fields: Sequence[bytes], settings: StreamSettings, now_ms: int) -> Entry:
        """What the handler gets; ``fields`` holds names and values in turn, ``now_ms`` is the server's clock."""
        return Entry(
            entry_id=self.entry_id.decode(),
            pairs=tuple(zip(fields[::2], fields[1::2], strict=True)),
            stream=settings.stream,
            group=settings.group,
            deliveries=self.claim.deliveries,
            last_consumer=self.found.consumer.decode(errors="backslashreplace"),
            age_s=age_s(self.entry_id, now_ms) or 0.0,
        )
