"""Retention by progress: trims what every group has finished with, in short slices; never what is pending, unread or young.

The rule stands in retention.lua, which finds the bound and trims below it in one run. Here: how large the next slice is, when
to stop, and what the report says. Needs Redis 6.2 (XTRIM MINID) and scripts. Rights: +evalsha, +script|load, +time, +xrange,
+xpending, +xinfo|groups, +xtrim, and +xlen for the length.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from redis.exceptions import ResponseError

from monitor.retained import LEFT_ALONE, MOST_COUNTED, Held, Policy, Retained
from monitor.scripts import Script, retention_script
from shared.errors import RedisRefused
from shared.redis_client import Argument, Command, RedisLink, Reply
from shared.retry import Deadline, retry

SLICE_MS: Final = 3.0
"""What one slice may take of the server's time."""
AIM: Final = 0.5
"""Of that: what a slice is sized for, as entries differ."""
FIRST_LIMIT: Final = 100
LEAST_LIMIT, MOST_LIMIT = 8, 10_000
"""A limit under a node's entries trims nothing and is doubled, so the lower end needs no care."""
RUNS_AT_ONCE: Final = 2
"""As with settling: slices and settling runs of one server take turns."""
COUNTED_AT_ONCE: Final = 50


class Pace(Protocol):
    """How long to go on, and how often to try: a sweep's state is one."""

    @property
    def is_over(self) -> bool: ...

    async def retry(self, attempt: Callable[[], Awaitable[None]]) -> None: ...


class Until:
    """A pace by a deadline alone."""

    def __init__(self, link: RedisLink, deadline: Deadline) -> None:
        self._link = link
        self._deadline = deadline

    @property
    def is_over(self) -> bool:
        return self._deadline.is_over()

    async def retry(self, attempt: Callable[[], Awaitable[None]]) -> None:
        await retry(attempt, self._deadline, self._link.reconnect)


class Retention:
    """Retention of one stream: ``run`` it once a sweep, or put ``opening`` into a round trip that is made anyway."""

    def __init__(self, link: RedisLink, stream: str, policy: Policy, dry_run: bool = False) -> None:
        self._link = link
        self._stream = stream
        self._policy = policy
        self._dry_run = dry_run
        self._script: Script = retention_script()
        self._limit = FIRST_LIMIT
        self._so_far = Retained(stream, complete=False, retain_ms=policy.retain_ms, dry_run=dry_run)
        self._has_ended = False
        self._network_ms: float | None = None
        """A round trip in which the server does next to nothing; None: not needed where scripts see a clock."""

    # --- the opening --------------------------------------------------------------------------------------------------

    def opening(self) -> list[Command]:
        """The first slice, to travel with the sweep's opening commands: it trims unless an own group has something pending.

        With that, a tick that finds nothing to do is one round trip, and what a sweep is about to store is never trimmed
        before its look at the index.
        """
        return [] if self._dry_run else [self._script.command((self._stream,), self._arguments("idle"))]

    def opened(self, replies: list[Reply]) -> None:
        """Note the reply to ``opening``. What went wrong there, such as NOSCRIPT, is left for ``run`` to meet again."""
        for reply in replies:
            if not isinstance(reply, Exception) and (fields := _fields(reply))["state"] not in ("busy", "old"):
                self._note(fields)

    # --- the run ------------------------------------------------------------------------------------------------------

    @property
    def so_far(self) -> Retained:
        """What was done by now, also if ``run`` was cut off."""
        return self._so_far

    async def run(self, pace: Pace) -> Retained:
        """Trim slice by slice until nothing is left that may go, or time is up; asks nothing if the opening did it all.

        Raises:
            RedisRefused: Redis is older than 6.2.
            redis.exceptions.RedisError: the slice may have run or not; repeating is safe, each finds the bound anew.
        """
        while not self._has_ended and not pace.is_over:
            await pace.retry(self._slice)
        if self._dry_run:
            await self._count(pace)
        return self._so_far

    def _arguments(self, task: str) -> tuple[Argument, ...]:
        policy, own = self._policy, self._policy.own_groups
        named = self._script.named(
            retain_ms=policy.retain_ms,
            limit=self._limit,
            task=task,
            needs_group=policy.needs_group,
            own_count=len(own),
        )
        return (*named, *own, *policy.ignored)

    async def look(self) -> Retained:
        """One run that trims and counts nothing: the length, the bound, who holds it.

        Raises:
            RedisRefused, redis.exceptions.RedisError: as of ``run``.
        """
        await self._slice()
        return self._so_far

    async def _slice(self) -> None:
        task = "look" if self._dry_run else "trim"
        async with self._link.turn_at(self._stream, RUNS_AT_ONCE):
            started_s = time.perf_counter()
            reply = await self._script.run(self._link, (self._stream,), self._arguments(task))
            took_ms = 1000 * (time.perf_counter() - started_s)
        fields = _fields(reply)
        if fields["took_us"] < 0 and fields.get("rest") == "more":
            took_ms -= await self._network()
        self._note(fields, took_ms)

    async def _network(self) -> float:
        """Milliseconds of a round trip, else a server far away would be sent slices of a few entries."""
        if self._network_ms is None:
            started_s = time.perf_counter()
            try:
                await self._link.call("PING")
            except ResponseError:  # no right to
                started_s = time.perf_counter()
            self._network_ms = 1000 * (time.perf_counter() - started_s)
        return self._network_ms

    def _note(self, fields: dict[str, Any], reply_took_ms: float | None = None) -> None:
        state, trimmed = fields["state"], self._so_far.trimmed + fields["trimmed"]
        if state == "old":
            raise RedisRefused("RETAIN_SEC needs Redis 6.2 or later (XTRIM MINID)")
        length = fields["length"] - fields["trimmed"] if fields["length"] >= 0 else None
        self._so_far = replace(
            self._so_far,
            trimmed=trimmed,
            stream_length=length,
            first_id=fields["first"] or None,
            bound=fields.get("bound"),
            left_alone=LEFT_ALONE.get(state),
        )
        if state != "bounded":
            self._end()
            return
        if fields["held_by"]:
            self._so_far = replace(self._so_far, held=_held(fields))
        self._go_on(fields, reply_took_ms)

    def _go_on(self, fields: dict[str, Any], reply_took_ms: float | None) -> None:
        rest = fields["rest"]
        if rest == "done":
            self._end()
        elif rest == "node" and self._limit >= MOST_LIMIT:
            self._so_far = replace(self._so_far, large_node=True)
            self._end()
        elif rest == "node":
            self._limit = min(2 * self._limit, MOST_LIMIT)
        else:
            self._adapt(fields, reply_took_ms)

    def _end(self) -> None:
        self._has_ended = True
        self._so_far = replace(self._so_far, complete=True)

    def _adapt(self, fields: dict[str, Any], reply_took_ms: float | None) -> None:
        """Size the next slice by what this one took; by the reply's time where scripts see no clock (below 7.2)."""
        took_ms, fixed_ms = fields["took_us"] / 1000, fields["fixed_us"] / 1000
        if took_ms < 0:
            if reply_took_ms is None:
                return
            took_ms, fixed_ms = reply_took_ms, 0.0
        room_ms = max(AIM * SLICE_MS - fixed_ms, SLICE_MS / 10)
        factor = room_ms / max(took_ms - fixed_ms, 0.01)
        self._limit = int(min(max(fields["limit"] * min(factor, 2.0), LEAST_LIMIT), MOST_LIMIT))

    async def _count(self, pace: Pace) -> None:
        """How many entries lie before the bound, read a few at a time, up to ``MOST_COUNTED``."""
        bound, count, first = self._so_far.bound, 0, b"-"
        while bound is not None and bound != "0-0" and count < MOST_COUNTED and not pace.is_over:
            rows = await self._link.call("XRANGE", self._stream, first, f"({bound}", "COUNT", COUNTED_AT_ONCE)
            count += len(rows)
            if len(rows) < COUNTED_AT_ONCE:
                break
            first = b"(" + rows[-1][0]
        self._so_far = replace(self._so_far, would_trim=count)


def _fields(reply: Reply) -> dict[str, Any]:
    names = [name.decode() for name in reply[::2]]
    values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in reply[1::2]]
    return dict(zip(names, values, strict=True))


def _held(fields: dict[str, Any]) -> Held:
    lag = None if fields["lag"] < 0 else fields["lag"]
    return Held(fields["held_by"], fields["held_at"], lag, fields["pending"])
