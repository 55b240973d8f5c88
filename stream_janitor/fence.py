"""The fence: a claim is known by its consumer and its delivery count, and only what still shows both is acted on.

fence.lua is the one copy of the script; here are its arguments and its answers, and no I/O, so that the janitor sends it
its own way and a consumer (lease.py) its own. Needs XPENDING, XCLAIM and XACK inside a script: Redis 6.2 and later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Argument: TypeAlias = bytes | str | int

MOST_ENTRIES: Final = 500
"""Of one run, which then takes a server about 2 ms; send several in one round trip for more."""

HELD: Final = "held"
"""Still ours, and done as asked."""
ACKED: Final = "acked"
LOST: Final = "lost"
"""Somebody claimed it after us."""
SETTLED: Final = "settled"
"""No longer pending: somebody acknowledged it."""
DELETED: Final = "deleted"
"""Gone from the stream while it was pending."""


def script_text() -> str:
    """fence.lua, for SCRIPT LOAD or EVAL."""
    return (Path(__file__).parent / "fence.lua").read_text(encoding="utf-8")


def sha1_of(text: str) -> str:
    """The name by which EVALSHA knows a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Claim:
    """One entry that we hold, as XPENDING has shown it since we claimed it."""

    entry_id: bytes
    deliveries: int
    """The delivery count that our claim left."""


@dataclass(frozen=True, slots=True)
class Change:
    """What XPENDING is to show of a claim from now on."""

    claim: Claim
    idle_ms: int
    deliveries: int


def renewed(claim: Claim) -> Change:
    """Ours for another full minimum idle time."""
    return Change(claim, 0, claim.deliveries)


def given_back(claim: Claim, idle_ms: int) -> Change:
    """Free again, as if it had been idle for so long. The attempt counts."""
    return Change(claim, max(idle_ms, 0), claim.deliveries)


def undone(claim: Claim, idle_ms: int) -> Change:
    """Free again, and the attempt does not count. Do not repeat it after a lost reply: fence.lua says why."""
    return Change(claim, max(idle_ms, 0), max(claim.deliveries - 1, 0))


def set_arguments(group: str, consumer: str, changes: Iterable[Change]) -> tuple[Argument, ...]:
    """ARGV of a run that makes ``changes`` where the claims are still ours. Answers: held, lost, settled, deleted."""
    entries: list[Argument] = []
    for change in changes:
        entries += (change.claim.entry_id, change.claim.deliveries, change.idle_ms, change.deliveries)
    return (group, consumer, "set", *entries)


def ack_arguments(group: str, consumer: str, claims: Iterable[Claim]) -> tuple[Argument, ...]:
    """ARGV of a run that acknowledges what is still ours. Answers: acked, lost, settled."""
    entries: list[Argument] = []
    for claim in claims:
        entries += (claim.entry_id, claim.deliveries)
    return (group, consumer, "ack", *entries)


def look_arguments(group: str, consumer: str, entry_ids: Iterable[bytes]) -> tuple[Argument, ...]:
    """ARGV of a run that asks for the delivery counts of what this consumer was just given."""
    return (group, consumer, "look", *entry_ids)


def states_of(reply: Sequence[bytes | str | int]) -> list[str | int]:
    """The answers as text, from a client that decodes them and from one that does not."""
    return [state.decode() if isinstance(state, bytes) else state for state in reply]
