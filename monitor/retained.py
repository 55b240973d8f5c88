"""What retention may do to a stream, and what it did: the policy that it is given, and the result that it returns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from monitor.pending import milliseconds_of
from shared.names import printable

MOST_COUNTED: Final = 1_000
LONGEST_NAME: Final = 1024
"""Of a group that a glob may match."""
LONGEST_SHOWN: Final = 100

LEFT_ALONE: Final = {
    "no_stream": "there is no such stream",
    "no_group": "no group reads it, so nothing says what is finished with",
    "all_ignored": "RETAIN_IGNORE_GROUPS names all of its groups",
    "many_groups": "more than 100 groups read it",
    "no_times": "its ids are no times: all lie before 2015",
    "ahead": "its ids are no times: the last lies ahead of the server's clock",
}
LARGE_NODE: Final = (
    "some finished entries remain in a node larger than a slice may be (stream-node-max-entries, stream-node-max-bytes)"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What may go from one stream."""

    retain_ms: int
    """Entries younger than that remain, by the server's clock."""
    ignored: tuple[str, ...] = ()
    """Globs of the groups that hold nothing: what they have pending or unread is lost to them."""
    own_groups: tuple[str, ...] = ()
    """The janitor's own groups on this stream; no glob makes them ignored."""
    needs_group: bool = True
    """Whether a stream that no group reads is left alone; a dead-letter stream is not."""

    def ignores(self, group: bytes) -> bool:
        """Whether the group holds nothing; the script decides the same way."""
        return group.decode("utf-8", "replace") not in self.own_groups and matches_any(group, self.ignored)


def matches_any(name: bytes, globs: Iterable[str]) -> bool:
    """Whether one of ``globs`` (``*``: any bytes, ``?``: one byte) is all of ``name``."""
    return len(name) <= LONGEST_NAME and any(re.fullmatch(_expression(glob), name, re.DOTALL) for glob in globs)


def _expression(glob: str) -> bytes:
    wild = {b"*": b".*", b"?": b"."}
    return b"".join(wild.get(part, re.escape(part)) for part in re.split(rb"([*?])", glob.encode()))


@dataclass(frozen=True, slots=True)
class Held:
    """The group but for which older entries could go."""

    group: str
    at: str
    """The first id that it still needs: the last that it was given, or the oldest that is pending."""
    lag: int | None
    """Entries that it has not read; None where the server does not know (and below 7.0)."""
    pending: int

    def __str__(self) -> str:
        unread = "" if self.lag is None else f", {self.lag:,} unread"
        name = printable(self.group, LONGEST_SHOWN) + ("…" if len(self.group) > LONGEST_SHOWN else "")
        return f"held by group {name} at {self.at} ({self.pending:,} pending{unread})"


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a stream is not trimmed as far as its age allows."""

    key: str
    """The same for as long as the cause is."""
    text: str


@dataclass(frozen=True, slots=True)
class Retained:
    """What retention did to one stream."""

    stream: str
    trimmed: int = 0
    """Entries that were trimmed; more may be if a reply was lost."""
    complete: bool = True
    """Nothing is left that may go, but for the last entry that a group was given, and ``large_node``."""
    stream_length: int | None = None
    """Entries in the stream now; None: not known, or this user may not ask (XLEN)."""
    first_id: str | None = None
    """Before the last slice."""
    bound: str | None = None
    """Only what lies before this id may go."""
    held: Held | None = None
    retain_ms: int = 0
    """How old entries have to be."""
    left_alone: str | None = None
    """Why nothing of this stream is ever trimmed."""
    large_node: bool = False
    dry_run: bool = False
    would_trim: int | None = None
    """Under ``dry_run``: how many entries lie before the bound; counted up to ``MOST_COUNTED``."""

    def held_for_s(self, now_ms: int) -> float:
        """How much longer than RETAIN_SEC a group has kept the first entry that it needs; 0: none does."""
        if self.held is None:
            return 0.0
        # What lies before `held.at` is gone by now; a group that was given nothing holds from the first entry on.
        first_ms = max(milliseconds_of(one.encode()) for one in (self.held.at, self.first_id or "0-0"))
        return max(now_ms - first_ms - self.retain_ms, 0) / 1000

    @property
    def hindrance(self) -> Hindrance | None:
        """What an operator has to know of: why entries that are old enough remain."""
        if self.held:
            return Hindrance(f"group {self.held.group}", str(self.held))
        if self.left_alone and self.left_alone != LEFT_ALONE["no_stream"]:
            return Hindrance("left alone", f"left alone: {self.left_alone}")
        return Hindrance("node", LARGE_NODE) if self.large_node else None

    @property
    def line(self) -> str | None:
        """For a sweep's report, which has ``trimmed`` as a number of its own."""
        return "; ".join(replace(self, trimmed=0)._parts()) or None

    def __str__(self) -> str:
        return "; ".join(self._parts()) or "nothing to trim"

    def _parts(self) -> list[str]:
        parts = []
        if self.would_trim:
            more = " or more" if self.would_trim >= MOST_COUNTED else ""
            parts.append(f"would trim {self.would_trim:,}{more} before {self.bound}")
        if self.trimmed:
            parts.append(f"{self.trimmed:,} trimmed" + ("" if self.complete else ", not complete"))
        hindrance = self.hindrance
        return parts if hindrance is None else [*parts, hindrance.text]
