"""The way back for dead letters: stored again, or back into the stream they came from; the timer never does it.

A letter leaves the dead-letter stream only after it arrived, so a run that is cut off anywhere loses nothing and is gone on
with by running it again; what had arrived but not left yet then arrives a second time: at least once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from redis.exceptions import RedisError

from monitor.dead_letter import DeadLetter, read_letter
from monitor.hashes import Store, fault_of_write
from monitor.outcomes import FAULTS_EXPLAINED, fault_explained
from monitor.pending import FIRST, LAST, following
from monitor.requeued import counted_anew, without
from monitor.storing import StoringRule
from shared.redis_client import Command, RedisLink, TooFewReplicas
from shared.retry import code_of, is_entrys_own, to_user_error
from shared.settings import StreamSettings

ARRIVED: Final = ("stored", "kept", "superseded", "sent", "handled")
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
class Mend:
    """One field that a letter gets on its way: in place of those of that name, or behind the others."""

    name: bytes
    value: bytes | None
    """None: the id that the entry had in its source stream."""

    def applied(self, letter: DeadLetter) -> DeadLetter:
        value = letter.entry_id if self.value is None else self.value
        names = letter.fields[::2]
        if self.name not in names:
            return replace(letter, fields=[*letter.fields, self.name, value])
        at = 2 * names.index(self.name)
        rest = without(self.name, letter.fields[at:])
        return replace(letter, fields=[*letter.fields[:at], self.name, value, *rest])


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of one letter: one of ``ARRIVED``, or ``stays`` and why."""

    letter: DeadLetter
    outcome: str
    reason: str = ""
    refusal: RedisError | None = None
    """The server's refusal that the next letter would meet too."""


class Destination(Protocol):
    """Where letters are sent."""

    async def send(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """What became of each.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: any of them may have arrived.
        """


class ToStore:
    """Into the hashes, as ACTION=store would write them."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._rule = StoringRule(settings)
        self._hashes = Store(link, settings)

    async def send(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """By the id of the entry that each letter was; the invalid ones first, which stay."""
        ruled = [(letter, *self._rule.of(letter.entry_id, letter.fields)) for letter in letters]
        stay = [Redriven(one, "stays", fault_explained(str(fault))) for one, storing, fault in ruled if storing is None]
        valid = [(letter, storing) for letter, storing, _ in ruled if storing is not None]
        replies = await self._hashes.write([storing for _, storing in valid]) if valid else []
        return stay + [
            _remains(letter, reply)
            if isinstance(reply, Exception)
            else Redriven(letter, "stored" if isinstance(reply, int) else reply.decode())
            for (letter, _), reply in zip(valid, replies, strict=True)
        ]


class ToStream:
    """Back into a stream under a new id: the one that ACTION=requeue adds to. A count of requeues begins anew."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._settings = settings

    async def send(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        target = self._settings.requeue_target
        commands: list[Command] = [("XADD", target, "*", *counted_anew(letter.fields)) for letter in letters]
        replies = await self._link.write_and_wait(commands, self._settings.ack_replicas)
        return [
            _remains(letter, reply) if isinstance(reply, Exception) else Redriven(letter, "sent")
            for letter, reply in zip(letters, replies, strict=True)
        ]


DESTINATIONS: Final[dict[str, Callable[[RedisLink, StreamSettings], Destination]]] = {
    "store": ToStore,
    "stream": ToStream,
}
"""What ``--to`` may say, where it is built."""


def _remains(letter: DeadLetter, error: Exception) -> Redriven:
    if isinstance(error, TooFewReplicas):
        return Redriven(letter, "stays", "too few replicas confirmed it")
    code = code_of(error)
    reason = fault_explained(fault_of_write(error))
    is_the_servers = isinstance(error, RedisError) and not is_entrys_own(code)
    return Redriven(letter, "stays", reason, error if is_the_servers else None)  # type: ignore[arg-type]


class Redrive:
    """Sends dead letters of one stream and group on, and takes those that arrived out of the dead-letter stream."""

    def __init__(
        self, link: RedisLink, settings: StreamSettings, destination: Destination, mends: Sequence[Mend] = ()
    ) -> None:
        self._link = link
        self._settings = settings
        self._destination = destination
        self._mends = mends

    async def take(self, letters: Sequence[DeadLetter]) -> list[Redriven]:
        """Send the letters on; each is removed only once its arrival was confirmed.

        Raises:
            JanitorError: the server refused a write, for a reason that the next letter would meet too. Letters that
                arrived before are removed; the others are where they were.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: some may have arrived without being removed;
                repeating is safe.
        """
        results = await self._destination.send([mended(letter, self._mends) for letter in letters])
        arrived = [result.letter.letter_id for result in results if result.outcome in ARRIVED]
        if arrived:
            await self._link.call("XDEL", str(self._settings.dead_letter_stream), *arrived)
        for result in results:
            if result.refusal is not None:
                raise to_user_error(result.refusal, "redriving")
        return results


def mended(letter: DeadLetter, mends: Sequence[Mend]) -> DeadLetter:
    for mend in mends:
        letter = mend.applied(letter)
    return letter
