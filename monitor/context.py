"""What one sweep is given, and what it leaves to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monitor.batch import Settler
from monitor.brake import Brake
from monitor.consumers import Reaper
from monitor.server_clock import ClockNotes
from monitor.sweep_state import SweepState
from shared.redis_client import RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

if TYPE_CHECKING:
    from monitor.handling.runner import Runner
    from monitor.observation import Observing


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
    runner: Runner | None = None
    """Where handlers run, one for the process; None where no stream has one."""
    state: SweepState | None = None
    """How far the sweep goes; the sweep itself puts it here."""


@dataclass(slots=True)
class ResumeState:
    """What one sweep leaves to the next one in the same process; a new process does without."""

    cursor: bytes | None = None
    """The id where the last sweep stopped; None: it came to the end."""
    brake: Brake | None = None
    """Of the stream, once it had candidates."""
    settle: Settler | None = None
    """How entries are settled here, once the server was asked."""
    aliases: set[str] = field(default_factory=set)
    """Index names that answered as another index: aliases, which may be missing for a moment."""
    ask_again_s: float | None = None
    """From when on, by the monotonic clock, the server is asked again whether a script may settle; None: never."""
    handler_is_away: bool = False
    """The last sweep's handler was unavailable: try one call before any other."""
    reaper: Reaper = field(default_factory=Reaper)
    """When the group's consumers were listed, and which are still to be removed."""
    clock: ClockNotes = field(default_factory=ClockNotes)
    """What was said of ids ahead of the server's clock."""
    observing: Observing | None = None
    """How far ACTION=observe has looked."""
