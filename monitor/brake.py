"""The brake on mass dead-lettering: wrong settings make every entry look invalid, and must not empty a stream into quarantine.

Judged over the last 100 candidates of a stream, across the sweeps of a process. While over half of them would be
dead-lettered for a fault that is certain, those entries stay pending and the sweep fails; the others are settled as ever.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from monitor.outcomes import is_certain, row_of

WINDOW: Final = 100
BRAKED: Final = "brake"


class Brake:
    """Remembers the last candidates of one stream: each one's certain fault, or None."""

    def __init__(self, is_on: bool = True) -> None:
        self._is_on = is_on
        self._last: deque[str | None] = deque(maxlen=WINDOW)

    def judge(self, settled: int, faults: Sequence[str]) -> str | None:
        """Note a batch: ``settled`` entries that are no matter of quarantine, and the ``faults`` of those that are.

        Returns what to tell the operator if the invalid ones must stay pending; None if they may go.
        """
        certain = [fault for fault in faults if is_certain(fault)]
        self._last.extend([None] * min(settled, WINDOW))
        self._last.extend(certain)
        counted = Counter(fault for fault in self._last if fault is not None)
        if not self._is_on or not certain or len(self._last) < WINDOW or 2 * counted.total() <= WINDOW:
            return None
        fault, _ = counted.most_common(1)[0]
        return (
            f"{counted.total()} of the last {WINDOW} abandoned entries would be dead-lettered, most of them for "
            f"{row_of(fault).text!r}: they stay pending. Look at {row_of(fault).setting}; if it is right, set "
            "DEAD_LETTER_BRAKE=off"
        )
