"""Whether ``monitor run`` still finishes its attempts, reported through a file: ``python -m monitor.heartbeat FILE`` for probes.

Liveness is ``FILE``. A finished attempt counts whether it got through or not: Redis being away, or a backlog, is no reason to end
a janitor, which would take its work up again with nothing gained.

Readiness is ``--ready FILE``: in the last finished attempt Redis answered for at least one group. A backlog, or one stream of
many that fails, leaves a pod ready, so that a fix can be rolled out in the very incident.

Nothing beyond the standard library is imported: a probe is cheap.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

READY = "--ready"
USAGE = f"usage: python -m monitor.heartbeat [{READY}] FILE"
_ANSWERED, _UNANSWERED = "answered", "unanswered"


def beat(path: Path, lasts_s: float, answered: bool = False) -> None:
    """Say that the janitor may be believed in for so long, and whether Redis answered. The file is never half-written.

    Raises:
        OSError: the file cannot be written.
    """
    new = path.with_name(f"{path.name}.new")
    # The monotonic clock is the same for all processes of a machine, and nobody sets it.
    new.write_text(f"{time.monotonic() + lasts_s:.3f} {_ANSWERED if answered else _UNANSWERED}\n", encoding="ascii")
    os.replace(new, path)


def left_s(path: Path) -> float:
    """For how many seconds the last beat still lasts; negative: since when it no longer does.

    Raises:
        OSError, ValueError: there is no beat.
    """
    return _read(path)[0] - time.monotonic()


def has_answered(path: Path) -> bool:
    """Whether Redis answered in the attempt that the last beat is of.

    Raises:
        OSError, ValueError: there is no beat.
    """
    return _read(path)[1] == _ANSWERED


def _read(path: Path) -> tuple[float, str]:
    until_s, _, answered = path.read_text(encoding="ascii").strip().partition(" ")
    return float(until_s), answered


def main(arguments: list[str]) -> int:
    """0 while the beat lasts (and Redis answered, if that is asked), otherwise 1; 2 for wrong usage."""
    is_for_readiness = arguments[:1] == [READY]
    names = arguments[1:] if is_for_readiness else arguments
    if len(names) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    path = Path(names[0])
    try:
        left, answered = left_s(path), has_answered(path)
    except (OSError, ValueError) as error:
        print(f"no heartbeat in {path} ({type(error).__name__})", file=sys.stderr)
        return 1
    if not left > 0:
        print(f"no attempt was finished in time; one was due {-left:.0f} s ago", file=sys.stderr)
        return 1
    if is_for_readiness and not answered:
        print(
            "not ready: no attempt was finished yet, or Redis did not answer in the last one; see the log",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
