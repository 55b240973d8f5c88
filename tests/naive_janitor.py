"""A whole janitor such as one writes on a good day: the negative control of the fault suite.

It has the interface of `monitor.janitor.Janitor`, so the same test body runs it. Each switch is one mistake of the field; a
test that does not catch the mistake proves nothing. With no switch on it loses nothing, it is only slow and gives up early.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AskError, RedisError, ResponseError

from monitor.dead_letter import PROVENANCE
from monitor.outcomes import Outcome
from monitor.pending import order_of
from monitor.report import SweepReport
from monitor.requeued import requeued
from monitor.scripts import store_script
from shared.cluster import ClusterLink
from shared.redis_client import Argument, Command, RedisLink, Reply, TooFewReplicas, open_link, raise_first, within
from shared.retry import to_user_error
from shared.settings import Settings, StreamSettings

EVERYTHING = 1_000_000
LONGEST_S = 60.0
REPLACE = "redis.call('HLEN', KEYS[1]) redis.call('DEL', KEYS[1]) return redis.call('HSET', KEYS[1], unpack(ARGV))"


@dataclass(frozen=True, slots=True)
class Flaws:
    """The mistakes; all off: none of them is made."""

    ack_first: bool = False
    """Acknowledges, then stores."""
    one_pipeline: bool = False
    """HSET and XACK of each entry in one pipeline, and no look at the replies."""
    min_idle_zero: bool = False
    """Takes everything that is pending, and claims it with a minimum idle time of 0."""
    check_then_delete: bool = False
    """Looks which consumers have nothing pending, then deletes those."""
    no_guard: bool = False
    """ON_CONFLICT=newer or not, it replaces what is there."""
    no_wait: bool = False
    """ACK_REPLICAS or not, it never waits."""
    no_redirects: bool = False
    """In a cluster a slot is for ever where it was at first."""
    no_deadline: bool = False
    """Waits for a reply for as long as it takes."""
    hides_errors: bool = False
    """Ends without a word whatever happened."""
    gives_up_on_deliveries: bool = False
    """Drops an entry once it was delivered more often than MAX_ATTEMPTS, whyever that was."""
    trims_by_its_own_bound: bool = False
    """RETAIN_SEC: finds here what every group has finished with, and trims in another command."""


def naive(**switches: bool) -> Callable[[Settings], NaiveJanitor]:
    """What makes a naive janitor from settings, as `Janitor` does."""
    flaws = Flaws(**switches)

    def make(settings: Settings) -> NaiveJanitor:
        return NaiveJanitor(settings, flaws)

    make.__dict__["switches"] = switches
    return make


class Unredirected(ClusterLink):
    """Takes a redirect for the command's error."""

    async def _sent_to(self, route: Any, commands: Sequence[Command], replicas: int) -> list[Reply]:
        replies = await super()._sent_to(route, commands, replicas)
        return [ResponseError(str(reply)) if isinstance(reply, AskError) else reply for reply in replies]


class NaiveJanitor:
    """Sweeps the first stream that the settings name: everything at once, no retries."""

    def __init__(self, settings: Settings, flaws: Flaws) -> None:
        self.settings = settings
        self._flaws = flaws
        self._stream: StreamSettings = settings.streams[0]
        timeout_s = LONGEST_S if flaws.no_deadline else settings.budget_s
        self._timeout_s = timeout_s
        self._link: RedisLink = open_link(settings.redis, settings.concurrency, timeout_s)
        if flaws.no_redirects:
            self._link = Unredirected(settings.redis, settings.concurrency, timeout_s)
        self._script = store_script()
        self._replicas = 0 if flaws.no_wait else self._stream.ack_replicas
        self._counts: Counter[Outcome] = Counter()

    async def tick(self) -> tuple[SweepReport, ...]:
        started_s = time.monotonic()
        self._counts = Counter()
        error = None
        try:
            async with within(self._timeout_s):
                await self._sweep()
        except (RedisError, asyncio.TimeoutError) as failure:
            error = None if self._flaws.hides_errors else str(to_user_error(failure, "the sweep"))
        return (self._report(time.monotonic() - started_s, error),)

    async def close(self) -> None:
        await self._link.close()

    async def _sweep(self) -> None:
        stream, flaws = self._stream, self._flaws
        rows = await self._link.call("XPENDING", stream.stream, stream.group, "-", "+", EVERYTHING)
        min_idle_ms = 0 if flaws.min_idle_zero else stream.min_idle_ms
        ids = [row[0] for row in rows if row[2] >= min_idle_ms]
        if flaws.gives_up_on_deliveries:
            await self._give_up([row[0] for row in rows if row[3] > stream.max_attempts])
        if ids:
            await self._settle(await self._claim(ids, min_idle_ms))
        if stream.reap_after_ms:
            await self._reap()
        if flaws.trims_by_its_own_bound:
            await self._trim()

    async def _give_up(self, ids: Sequence[bytes]) -> None:
        if ids:
            self._counts[Outcome.FAILED] += await self._link.call("XACK", self._stream.stream, self._stream.group, *ids)

    async def _claim(self, ids: Sequence[bytes], min_idle_ms: int) -> list[tuple[bytes, list[bytes]]]:
        stream = self._stream
        entries = await self._link.pipelined(("XRANGE", stream.stream, entry_id, entry_id) for entry_id in ids)
        raise_first(entries)
        deleted = [entry_id for entry_id, found in zip(ids, entries, strict=True) if not found]
        if deleted:
            self._counts[Outcome.DELETED] += await self._link.call("XACK", stream.stream, stream.group, *deleted)
        own = [] if self._flaws.gives_up_on_deliveries else ["JUSTID"]
        claimed = await self._link.call("XCLAIM", stream.stream, stream.group, stream.consumer, min_idle_ms, *ids, *own)
        taken = {item if isinstance(item, bytes) else item[0] for item in claimed}
        return [(found[0][0], found[0][1]) for found in entries if found and found[0][0] in taken]

    async def _settle(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> None:
        if self._flaws.ack_first:
            await self._acknowledge([entry_id for entry_id, _ in entries])
            await self._store(entries)
        elif self._flaws.one_pipeline:
            await self._store_and_acknowledge(entries)
        else:
            await self._acknowledge(await self._store(entries))

    async def _acknowledge(self, ids: Sequence[bytes]) -> None:
        if ids:
            count = await self._link.call("XACK", self._stream.stream, self._stream.group, *ids)
            self._counts[Outcome.PROCESSED] += count

    async def _store(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> list[bytes]:
        """Which of them are stored, and on enough replicas if that is asked for."""
        sound = [entry for entry in entries if self._is_sound(*entry)]
        await self._quarantine([entry for entry in entries if not self._is_sound(*entry)])
        commands = [self._store_command(*entry) for entry in sound]
        replies = await self._link.write_and_wait(commands, self._replicas)
        stored = [
            entry_id for (entry_id, _), reply in zip(sound, replies, strict=True) if not isinstance(reply, Exception)
        ]
        self._raise_refusal(replies)
        wrong = [entry for entry, reply in zip(sound, replies, strict=True) if isinstance(reply, RedisError)]
        await self._quarantine(wrong)
        return stored

    async def _quarantine(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> None:
        """Dead letters as the janitor writes them."""
        for entry_id, fields in entries:
            values = [self._stream.stream, self._stream.group, entry_id, "naive", 1, "naive", 0]
            provenance: list[Argument] = [part for pair in zip(PROVENANCE, values, strict=True) for part in pair]
            letter: Command = ("XADD", str(self._stream.dead_letter_stream), "*", *provenance, *fields)
            (reply,) = await self._link.write_and_wait([letter], self._replicas)
            if isinstance(reply, RedisError):
                raise reply
            if not self._flaws.ack_first and not isinstance(reply, TooFewReplicas):
                await self._link.call("XACK", self._stream.stream, self._stream.group, entry_id)
            self._counts[Outcome.DEAD_LETTERED] += 1

    async def _store_and_acknowledge(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> None:
        commands: list[Command] = []
        for entry_id, fields in entries:
            commands += [
                self._store_command(entry_id, fields),
                ("XACK", self._stream.stream, self._stream.group, entry_id),
            ]
        replies = await self._link.pipelined(commands)
        self._counts[Outcome.PROCESSED] += len(entries)
        self._raise_refusal(replies)

    def _raise_refusal(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, RedisError) and "WRONGTYPE" not in str(reply):
                raise reply

    def _is_sound(self, entry_id: bytes, fields: list[bytes]) -> bool:
        if self._stream.action == "requeue":
            return requeued(entry_id, fields, self._stream.max_requeues) is not None
        return bool(self._id_of(fields))

    def _id_of(self, fields: list[bytes]) -> bytes:
        value = dict(zip(fields[::2], fields[1::2], strict=True)).get(self._stream.id_fields[0].encode(), b"")
        return value if len(value) <= 1024 else b""

    def _store_command(self, entry_id: bytes, fields: list[bytes]) -> Command:
        if self._stream.action == "requeue":
            return ("XADD", self._stream.requeue_target, "*", *(requeued(entry_id, fields, 0) or ()))
        key = self._stream.hash_prefix.encode() + self._id_of(fields)
        if self._stream.on_conflict == "overwrite":
            return ("HSET", key, *fields)
        if self._flaws.no_guard:
            return ("EVAL", REPLACE, 1, key, *fields, "stream_entry_id", entry_id)
        return ("EVAL", self._script.text, 1, key, self._stream.on_conflict, entry_id, *fields)

    async def _reap(self) -> None:
        """Only the way that loses entries: the right one is `monitor/reap.lua`."""
        if not self._flaws.check_then_delete:
            return
        stream = self._stream
        rows: list[dict[bytes, Any]] = await self._link.call("XINFO", "CONSUMERS", stream.stream, stream.group)
        for row in rows:
            if not row[b"pending"] and row[b"idle"] >= stream.reap_after_ms:
                await self._link.call("XGROUP", "DELCONSUMER", stream.stream, stream.group, row[b"name"])

    async def _trim(self) -> None:
        """The bound is right when it is found."""
        stream = self._stream.stream
        rows: list[dict[bytes, Any]] = await self._link.call("XINFO", "GROUPS", stream)
        seconds, _ = await self._link.call("TIME")
        needed = [(1000 * int(seconds) - (self._stream.retain_ms or 0), 0)]
        needed += [order_of(row[b"last-delivered-id"]) for row in rows]
        for pending in await self._link.pipelined(("XPENDING", stream, row[b"name"], "-", "+", 1) for row in rows):
            needed += [order_of(row[0]) for row in pending]
        milliseconds, sequence = min(needed)
        await self._link.call("XTRIM", stream, "MINID", "=", f"{milliseconds}-{sequence}")

    def _report(self, duration_s: float, error: str | None) -> SweepReport:
        return SweepReport(
            stream=self._stream.stream,
            group=self._stream.group,
            pending=0,
            candidates=sum(self._counts.values()),
            **{outcome.value: self._counts[outcome] for outcome in Outcome},
            unsearchable=0,
            duration_s=duration_s,
            complete=error is None,
            oldest_pending_age_s=None,
            settle_mode="naive",
            index="ok",
            error=error,
        )
