"""What one sweep is given, and what it leaves to the next."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.batch import Settler
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


@dataclass(frozen=True, slots=True)
class SweepContext:
    """What a sweep is given."""

    link: RedisLink
    settings: StreamSettings
    page_size: int
    """Rows of the pending entries list to a page."""
    concurrency: int
    """Batches in flight at a server, for actions whose batches are not bounded by the server itself."""
    budget_s: float
    telemetry: GroupTelemetry = SILENT_GROUP


@dataclass(slots=True)
class ResumeState:
    """What one sweep leaves to the next one in the same process; a new process does without."""

    cursor: bytes | None = None
    """The id where the last sweep stopped; None: it came to the end."""
    settle: Settler | None = None
    """How entries are settled here, once the server was asked."""
