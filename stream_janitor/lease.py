"""A lease for consumers: while you work on entries, the janitor leaves them alone.

The janitor takes a consumer for dead when an entry has been idle for MIN_IDLE_TIME_SEC. Work that takes longer keeps its
entries by a sign of life::

    for stream, entries in await client.xreadgroup(group, me, {stream: ">"}):
        async with keep(client, stream, group, me, [entry_id for entry_id, _ in entries], every_s=5) as lease:
            for entry_id, fields in entries:
                await work(fields)
                if lease.is_mine(entry_id):
                    await client.xack(stream, group, entry_id)

Choose ``every_s`` so that two lost renewals do no harm: a quarter of MIN_IDLE_TIME_SEC. A lease makes it unlikely that two
work on one entry, and cannot make it impossible (a process may be frozen for longer than any lease), so the work still has
to be repeatable. Required permissions: ``+evalsha +eval +xpending +xclaim`` on the stream, and ``+xrange`` on Redis 6.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from redis.exceptions import NoScriptError, RedisError

from stream_janitor.fence import (
    DELETED,
    HELD,
    MOST_ENTRIES,
    Argument,
    Claim,
    look_arguments,
    renewed,
    script_text,
    set_arguments,
    sha1_of,
    states_of,
)

logger = logging.getLogger("stream_janitor")

_TEXT: Final = script_text()
_SHA1: Final = sha1_of(_TEXT)


class Client(Protocol):
    """redis.asyncio's Redis and RedisCluster, whether they decode replies or not."""

    def execute_command(self, *command: Any) -> Awaitable[Any]: ...


class Lease:
    """Which of the entries are still ours; ``keep`` makes and renews it."""

    def __init__(self, client: Client, stream: str, group: str, consumer: str, claims: Iterable[Claim]) -> None:
        self._client = client
        self._stream, self._group, self._consumer = stream, group, consumer
        self._claims = {claim.entry_id: claim for claim in claims}
        self._renewed_at_s = time.monotonic()
        self.lost: dict[bytes, str] = {}
        """Entry id → ``lost`` (somebody claimed it after us), ``settled`` (acknowledged), ``deleted`` (gone from the stream)."""

    def is_mine(self, entry_id: bytes | str) -> bool:
        """Whether the entry was still ours at the last renewal; ``lost`` says why not."""
        return _bytes(entry_id) in self._claims

    @property
    def since_renewal_s(self) -> float:
        """Seconds since the last renewal that Redis answered: beyond MIN_IDLE_TIME_SEC the entries may be another's."""
        return time.monotonic() - self._renewed_at_s

    async def renew(self) -> None:
        """Reset the idle time of what is still ours, and note what is not.

        Raises:
            redis.exceptions.RedisError: not known whether it was renewed; repeating is safe.
        """
        sent_at_s = time.monotonic()
        for claims in _slices(list(self._claims.values())):
            arguments = set_arguments(self._group, self._consumer, map(renewed, claims))
            states = await _run(self._client, self._stream, arguments)
            for claim, state in zip(claims, states, strict=True):
                if state != HELD:
                    self._note(claim.entry_id, str(state))
        self._renewed_at_s = sent_at_s

    def _note(self, entry_id: bytes, state: str) -> None:
        self.lost[entry_id] = state
        self._claims.pop(entry_id, None)
        if state == DELETED:
            logger.warning(
                "%s/%s: entry %s was deleted while it was pending", self._stream, self._group, entry_id.decode()
            )


@contextlib.asynccontextmanager
async def keep(
    client: Client,
    stream: str,
    group: str,
    consumer: str,
    entry_ids: Iterable[bytes | str] | Mapping[bytes | str, int],
    every_s: float,
) -> AsyncIterator[Lease]:
    """Keep entries that ``consumer`` was just given out of the janitor's reach until the block ends.

    Acknowledges nothing and gives nothing back. A renewal that fails is logged and tried again after ``every_s`` seconds.

    Args:
        entry_ids: from XREADGROUP or XAUTOCLAIM, asked for right before; a mapping entry id → delivery count where the
            counts are known, which makes even that moment safe.
        every_s: seconds between two renewals; a quarter of the janitor's MIN_IDLE_TIME_SEC.

    Raises:
        redis.exceptions.RedisError: at the start, with nothing known about the entries.
    """
    if every_s <= 0:
        raise ValueError("every_s has to be greater than 0")
    lease = await _lease(client, stream, group, consumer, entry_ids)
    await lease.renew()
    is_over = asyncio.Event()
    renewals = asyncio.create_task(_renew_until(is_over, lease, every_s))
    try:
        yield lease
    finally:
        is_over.set()  # redis-py may swallow a cancellation that meets a reply (seen in 8.1)
        renewals.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewals


async def _lease(
    client: Client, stream: str, group: str, consumer: str, entry_ids: Iterable[bytes | str] | Mapping[bytes | str, int]
) -> Lease:
    if isinstance(entry_ids, Mapping):
        claims = [Claim(_bytes(entry_id), deliveries) for entry_id, deliveries in entry_ids.items()]
        return Lease(client, stream, group, consumer, claims)
    ids = [_bytes(entry_id) for entry_id in entry_ids]
    states: list[str | int] = []
    for some in _slices(ids):
        states += await _run(client, stream, look_arguments(group, consumer, some))
    found = list(zip(ids, states, strict=True))
    claims = [Claim(entry_id, state) for entry_id, state in found if isinstance(state, int)]
    lease = Lease(client, stream, group, consumer, claims)
    lease.lost |= {entry_id: state for entry_id, state in found if isinstance(state, str)}
    return lease


async def _renew_until(is_over: asyncio.Event, lease: Lease, every_s: float) -> None:
    """One renewal that has no answer is given up when the next is due: two lost ones cost no more time than two."""
    due_s = time.monotonic()
    while not is_over.is_set():
        due_s = max(due_s + every_s, time.monotonic())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(is_over.wait(), due_s - time.monotonic())
            return
        try:
            await asyncio.wait_for(lease.renew(), every_s)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            logger.warning("a lease was not renewed (%s); trying again in %g s", type(error).__name__, every_s)


async def _run(client: Client, stream: str, arguments: Sequence[Argument]) -> list[str | int]:
    """Run fence.lua; by its text where the server does not have it, which also leaves it there."""
    try:
        return states_of(await client.execute_command("EVALSHA", _SHA1, 1, stream, *arguments))
    except NoScriptError:
        return states_of(await client.execute_command("EVAL", _TEXT, 1, stream, *arguments))


def _slices(items: list[Any]) -> Iterator[list[Any]]:
    return (items[at : at + MOST_ENTRIES] for at in range(0, len(items), MOST_ENTRIES))


def _bytes(entry_id: bytes | str) -> bytes:
    return entry_id.encode() if isinstance(entry_id, str) else entry_id
