"""Whether ``monitor run`` still finishes its attempts, told through a file: ``python -m monitor.heartbeat FILE`` for probes.

A finished attempt counts whether it got through or not: Redis being away, or a backlog, is no reason to end a janitor, which
would take its work up again with nothing gained. Nothing beyond the standard library is imported: a probe is cheap.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

USAGE = "usage: python -m monitor.heartbeat FILE"


def beat(path: Path, lasts_s: float) -> None:
    """Say that the janitor may be believed in for so long. The file is replaced, never half-written.

    Raises:
        OSError: the file cannot be written.
    """
    new = path.with_name(f"{path.name}.new")
    # The monotonic clock is the same for all processes of a machine, and nobody sets it.
    new.write_text(f"{time.monotonic() + lasts_s:.3f}\n", encoding="ascii")
    os.replace(new, path)


def left_s(path: Path) -> float:
    """For how many seconds the last beat still lasts; negative: since when it no longer does.

    Raises:
        OSError, ValueError: there is no beat.
    """
    return float(path.read_text(encoding="ascii")) - time.monotonic()


def main(arguments: Sequence[str]) -> int:
    """0 while the beat lasts, otherwise 1; 2 for wrong usage."""
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        left = left_s(Path(arguments[0]))
    except (OSError, ValueError) as error:
        print(f"no heartbeat in {arguments[0]} ({type(error).__name__})", file=sys.stderr)
        return 1
    if left > 0:
        return 0
    print(f"no attempt was finished in time; one was due {-left:.0f} s ago", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
