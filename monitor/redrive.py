"""The way back for dead letters: stored again, or back into the stream they came from; the timer never does it.

A letter leaves the dead-letter stream only after it arrived, so a run that is cut off anywhere loses nothing and is gone on
with by running it again; what had arrived but not left yet then arrives a second time: at least once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from monitor.dead_letter import DeadLetter, read_letter
from monitor.entry_key import EntryKey
from monitor.hashes import Store, Storing
from monitor.outcomes import FAULTS_EXPLAINED, WRONG_TYPE, fault_explained
from monitor.pending import FIRST, LAST, following
from monitor.trace_fields import split_from_trace
from shared.redis_client import Command, RedisLink, Reply, TooFewReplicas
from shared.retry import code_of, explained, is_entrys_own
from shared.settings import StreamSettings

ARRIVED: Final = ("stored", "kept", "superseded", "sent")
"""What may become of a redriven letter, apart from staying where it is."""

_PAGE_BYTES: Final = 1_000_000
_SMALLEST_PAGE, _LARGEST_PAGE = 8, 512


@dataclass(frozen=True, slots=True)
class NoLetter:
    """An entry of the dead-letter stream that is no dead letter: somebody else wrote it there."""

    letter_id: bytes
    fields: list[bytes]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; with nothing said, all of them."""

    first: bytes = FIRST
    last: bytes = LAST
    letter_ids: frozenset[bytes] = frozenset()
    entry_ids: frozenset[bytes] = frozenset()
    reason: str | None = None
    """Part of the reason, in any case of letters, or the name of a fault such as ``no_id``."""

    def takes(self, letter: DeadLetter) -> bool:
        if (self.letter_ids or self.entry_ids) and not (
            letter.letter_id in self.letter_ids or letter.entry_id in self.entry_ids
        ):
            return False
        if self.reason is None:
            return True
        wanted = FAULTS_EXPLAINED.get(self.reason, self.reason).casefold()
        return wanted in letter.reason.decode("utf-8", "replace").casefold()


async def pages(
    link: RedisLink, stream: str, first: bytes = FIRST, last: bytes = LAST
) -> AsyncIterator[list[DeadLetter | NoLetter]]:
    """The dead-letter stream from ``first`` to ``last``, in pages of about a megabyte at most 512 letters long."""
    size = _SMALLEST_PAGE
    while True:
        entries = await link.call("XRANGE", stream, first, last, "COUNT", size)
        if entries:
            yield [read_letter(entry_id, pairs) or NoLetter(entry_id, pairs) for entry_id, pairs in entries]
        if len(entries) < size:
            return
        first = following(entries[-1][0])
        size = page_size_after(size, sum(sum(map(len, pairs)) for _, pairs in entries))


def page_size_after(size: int, weight: int) -> int:
    """How many entries to read next, after so many that weighed so many bytes."""
    if weight > _PAGE_BYTES:
        return max(_SMALLEST_PAGE, size * _PAGE_BYTES // weight)
    return min(_LARGEST_PAGE, size * 2) if weight < _PAGE_BYTES / 4 else size


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of one letter: one of ``ARRIVED``, or ``stays`` and why."""

    letter: DeadLetter
    outcome: str
    reason: str = ""


class Redrive:
    """Sends dead letters of one stream and group on, and takes those that arrived out of the dead-letter stream."""

    def __init__(self, link: RedisLink, settings: StreamSettings, to_stream: bool) -> None:
        """``to_stream``: back into the source stream under a new id, instead of into the hashes."""
        self._link = link
        self._settings = settings
        self._to_stream = to_stream
        self._key = EntryKey(settings)
        self._hashes = Store(link, settings)

    def fault(self, letter: DeadLetter) -> str | None:
        """Why it cannot be sent on, as far as it shows without writing."""
        if self._to_stream:
            return None
        _, fault = self._key.of(letter.fields)
        return fault and fault_explained(fault)

    async def take(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """Send the letters on; each is removed only once its arrival was confirmed.

        Raises:
            JanitorError: the server refused a write, for a reason that the next letter would meet too. Letters that
                arrived before are removed; the others are where they were.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: some may have arrived without being removed;
                repeating is safe.
        """
        faults = [self.fault(letter) for letter in letters]
        sound = [letter for letter, fault in zip(letters, faults, strict=True) if fault is None]
        redriven = [
            Redriven(letter, "stays", fault) for letter, fault in zip(letters, faults, strict=True) if fault is not None
        ]
        if not sound:
            return redriven
        replies = await self._send(sound)
        results = [self._result(letter, reply) for letter, reply in zip(sound, replies, strict=True)]
        arrived = [result.letter.letter_id for result in results if result.outcome in ARRIVED]
        if arrived:
            await self._link.call("XDEL", str(self._settings.dead_letter_stream), *arrived)
        for reply in replies:
            if isinstance(reply, RedisError) and not is_entrys_own(code_of(reply)):
                raise explained(reply, "redriving")
        return redriven + results

    async def _send(self, letters: Sequence[DeadLetter]) -> list[Reply]:
        if not self._to_stream:
            return await self._hashes.write([self._storing(letter) for letter in letters])
        commands: list[Command] = [("XADD", self._settings.stream, "*", *letter.fields) for letter in letters]
        return await self._link.written(commands, self._settings.ack_replicas)

    def _storing(self, letter: DeadLetter) -> Storing:
        key, _ = self._key.of(letter.fields)
        fields = letter.fields if self._settings.keep_trace_fields else split_from_trace(letter.fields)[0]
        return Storing(key or b"", letter.entry_id, fields)

    def _result(self, letter: DeadLetter, reply: Reply) -> Redriven:
        if isinstance(reply, TooFewReplicas):
            return Redriven(letter, "stays", "too few replicas confirmed it")
        if isinstance(reply, Exception):
            code = code_of(reply)
            return Redriven(letter, "stays", fault_explained(WRONG_TYPE if code == "WRONGTYPE" else f"error:{code}"))
        if self._to_stream:
            return Redriven(letter, "sent")
        return Redriven(letter, "stored" if isinstance(reply, int) else reply.decode())
