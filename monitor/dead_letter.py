"""The quarantine: entries that cannot be stored through their own fault go to a stream of their own, byte for byte.

A dead letter begins with ``PROVENANCE`` pairs, read by position since the entry's own fields, which follow them, may have
the same names. It is acknowledged in the source group only after it is there: a crash between the two leaves it in both, so
delivery is at least once. Letters go only by hand, or by age under DEAD_LETTER_RETAIN_SEC.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from monitor.batch import Refused
from monitor.entry_reader import LOST, TOO_LARGE, EntryReader, TooLargeToCarry
from monitor.outcomes import Outcome, fault_explained, is_certain
from monitor.pending import PendingEntry, time_ms
from monitor.portion import Portion
from monitor.report import Tally
from shared.own_keys import attempts_key
from shared.redis_client import Argument, Command, RedisLink, TooFewReplicas, raise_first
from shared.retry import code_of, is_entrys_own
from shared.settings import StreamSettings

PROVENANCE: Final = ("stream", "group", "entry_id", "reason", "deliveries", "last_consumer", "dead_at_ms")
"""The names of the leading pairs, in their order. ``dead_at_ms`` is by the server's clock."""

_ENTRY_ID: Final = re.compile(rb"\d{1,20}-\d{1,20}")
GROUP_SIZE: Final = 8
"""Entries in hand at a time; each may be large."""
ATTEMPTS_KEPT_SEC: Final = 7 * 24 * 3600
"""How long a count of attempts outlives the last one."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead-letter stream, read back: the provenance, and what the source entry held, byte for byte."""

    letter_id: bytes
    """Its id in the dead-letter stream."""
    stream: bytes
    group: bytes
    entry_id: bytes
    """Its id in the source stream."""
    reason: bytes
    deliveries: int
    last_consumer: bytes
    dead_at_ms: int
    fields: list[bytes]
    """Names and values in turn."""

    def is_of(self, settings: StreamSettings) -> bool:
        """Whether it came from this stream and group: several may share one dead-letter stream."""
        return self.stream == settings.stream.encode() and self.group == settings.group.encode()


def read_letter(letter_id: bytes, pairs: Sequence[bytes]) -> DeadLetter | None:
    """The dead letter that an entry of the dead-letter stream is; None if somebody else wrote it."""
    end = 2 * len(PROVENANCE)
    names, values = pairs[:end:2], pairs[1:end:2]
    if tuple(names) != tuple(name.encode() for name in PROVENANCE):
        return None
    stream, group, entry_id, reason, deliveries, last_consumer, dead_at_ms = values
    if not (deliveries.isdigit() and dead_at_ms.isdigit() and _ENTRY_ID.fullmatch(entry_id)):
        return None
    return DeadLetter(
        letter_id,
        stream,
        group,
        entry_id,
        reason,
        int(deliveries),
        last_consumer,
        int(dead_at_ms),
        list(pairs[end:]),
    )


class DeadLetters:
    """Moves one batch's invalid entries to the dead-letter stream of their stream."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._settings = settings
        self._target = settings.dead_letter_stream
        self._attempts_key = attempts_key(str(self._target))
        self._reader = EntryReader(link, settings.stream, Portion(2, GROUP_SIZE))
        self.tally = Tally()
        """What became of the entries that ``take`` was given."""
        self.refusal: Exception | None = None
        """The error with which the server refused a dead letter: full, read-only, no right."""
        self.failure: Exception | None = None
        """Any error with which it did, a key of another type included."""
        self.has_unconfirmed = False
        """Too few replicas confirmed some of them."""

    async def take(self, refused: Sequence[Refused]) -> None:
        """Move to quarantine what belongs there; ``tally`` has every one of ``refused`` as dead-lettered or failed.

        Raises:
            redis.exceptions.RedisError: those not counted yet are pending, and perhaps in the dead-letter stream as well.
        """
        due = []
        for item in refused:
            if self._target is not None and await self._is_due(item):
                due.append(item)
            else:
                self.tally.name(Outcome.FAILED, fault_explained(item.fault), item.entry.entry_id)
        while due:
            group = due[: self._reader.portion.size]
            now_ms = time_ms(await self._link.call("TIME"))
            try:
                entries = await self._reader.read([item.entry.entry_id for item in group])
            except TooLargeToCarry:
                reason = f"{fault_explained(due[0].fault)}, and {TOO_LARGE}"
                self.tally.name(Outcome.FAILED, reason, due[0].entry.entry_id)
            except LOST:
                if len(group) == 1:
                    raise
                continue  # by one entry at a time; nothing was written
            else:
                await self._move(group, entries, now_ms)
            due = due[len(group) :]

    async def _is_due(self, item: Refused) -> bool:
        """At once for a fault that is certain; for an unknown error after MAX_ATTEMPTS of ours that ended in one."""
        if is_certain(item.fault):
            return True
        return await self._attempts(item.entry.entry_id) >= self._settings.max_attempts

    async def _attempts(self, entry_id: bytes) -> int:
        """How many attempts ended in an unknown error of this entry, this one included."""
        replies = await self._link.pipelined(
            [("HINCRBY", self._attempts_key, entry_id, 1), ("EXPIRE", self._attempts_key, ATTEMPTS_KEPT_SEC)]
        )
        raise_first(replies)
        return int(replies[0])

    async def _move(self, items: Sequence[Refused], entries: Sequence[list[bytes] | None], now_ms: int) -> None:
        present = [(item, fields) for item, fields in zip(items, entries, strict=True) if fields is not None]
        for item, fields in zip(items, entries, strict=True):
            if fields is None:
                self.tally.name(
                    Outcome.FAILED,
                    "gone from the stream before it could be dead-lettered",
                    item.entry.entry_id,
                )
        if present:
            await self._move_held(present, now_ms)

    async def move(self, held: Sequence[tuple[Refused, list[bytes]]]) -> None:
        """Move entries that were read, and claimed, a moment ago; ``tally`` has every one of them afterwards.

        Raises:
            redis.exceptions.RedisError: any of them may be in the dead-letter stream, and is pending as well.
        """
        await self._move_held(held, time_ms(await self._link.call("TIME")))

    async def _move_held(self, held: Sequence[tuple[Refused, list[bytes]]], now_ms: int) -> None:
        await self._acknowledge(await self._add(held, now_ms))

    async def _add(self, held: Sequence[tuple[Refused, list[bytes]]], now_ms: int) -> list[Refused]:
        """Those that are in the dead-letter stream now, confirmed by as many replicas as ACK_REPLICAS asks for."""
        commands = [self._command(item, fields, now_ms) for item, fields in held]
        replies = await self._link.write_and_wait(commands, self._settings.ack_replicas)
        arrived = []
        for (item, _), reply in zip(held, replies, strict=True):
            if isinstance(reply, TooFewReplicas):
                reason = f"{fault_explained(item.fault)}, and too few replicas confirmed the dead letter"
                self.tally.name(Outcome.FAILED, reason, item.entry.entry_id)
                self.has_unconfirmed = True
            elif isinstance(reply, Exception):
                self.failure = reply
                reason = f"{fault_explained(item.fault)}, and the dead-letter stream refused it ({code_of(reply)})"
                self.tally.name(Outcome.FAILED, reason, item.entry.entry_id)
                if not is_entrys_own(code_of(reply)):  # a key of another type there must not stop the others
                    self.refusal = reply
            else:
                arrived.append(item)
        return arrived

    def _command(self, item: Refused, fields: list[bytes], now_ms: int) -> Command:
        entry: PendingEntry = item.entry
        values: tuple[Argument, ...] = (
            self._settings.stream,
            self._settings.group,
            entry.entry_id,
            fault_explained(item.fault),
            entry.deliveries,
            entry.consumer,
            now_ms,
        )
        provenance: list[Argument] = [part for pair in zip(PROVENANCE, values, strict=True) for part in pair]
        return ("XADD", str(self._target), "*", *provenance, *fields)

    async def _acknowledge(self, arrived: Sequence[Refused]) -> None:
        if not arrived:
            return
        ids = [item.entry.entry_id for item in arrived]
        await self._link.call("XACK", self._settings.stream, self._settings.group, *ids)
        for item in arrived:
            self.tally.name(Outcome.DEAD_LETTERED, fault_explained(item.fault), item.entry.entry_id)
        unknown = [item.entry.entry_id for item in arrived if not is_certain(item.fault)]
        if unknown:
            await self._link.call("HDEL", self._attempts_key, *unknown)
