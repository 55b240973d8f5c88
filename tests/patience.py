"""How much longer things take on a machine that is too busy: upper limits of tests grow with it."""

from __future__ import annotations

import os
import time

SAMPLE_S = 0.01
"""Of the processor, so that the scheduler has others take their turns in between."""


def in_time(seconds: float) -> float:
    """``seconds`` where this process has a core to itself, and as many times as much as it has to share one.

    Ask after what was timed. Only for the most that something may take: what has to be reached is waited for.
    """
    return seconds * max(1.0, _shared_with(), _waiting())


def _shared_with() -> float:
    """How many want to run for each core, over the last minute; 1 where the system does not tell."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 1.0


def _waiting() -> float:
    """How many times longer a bit of work took just now than it would alone."""
    began_s, ran_s = time.perf_counter(), time.process_time()
    while time.process_time() - ran_s < SAMPLE_S:
        pass
    return (time.perf_counter() - began_s) / (time.process_time() - ran_s)
