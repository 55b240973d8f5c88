"""How much to carry at a time: a number of entries that follows what they weigh, and falls to one after a lost reply.

An entry's size is not known before it is read. So the first portion is small, the next ones follow the weight of the last
one, and a reply that was lost (too large for the link in its time, or for ``client-output-buffer-limit``) is asked for
again by one entry at a time.
"""

from __future__ import annotations

from typing import Final

PORTION_BYTES: Final = 1_000_000
"""What one portion may weigh, in bytes of fields; a single entry may weigh more."""


class Portion:
    """The number of entries to read next."""

    def __init__(self, first: int, most: int) -> None:
        """``first``: while nothing is known; ``most``: never more than so many entries."""
        self._most = most
        self.size = min(first, most)
        self.is_careful = False
        """A reply was lost: one portion at a time, until a whole one came."""

    def came(self, count: int, weight: int) -> None:
        """``count`` entries were read that weighed ``weight`` bytes."""
        self.is_careful = False
        if weight > PORTION_BYTES:
            self.size = max(1, count * PORTION_BYTES // weight)
        elif weight < PORTION_BYTES / 4 and count >= self.size:
            self.size = min(self._most, self.size * 2)

    def was_lost(self) -> None:
        """The reply did not come."""
        self.size, self.is_careful = 1, True
