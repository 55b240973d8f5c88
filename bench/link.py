"""The link's own cost: client CPU an entry, for the four commands of gather in batches of 128.

Three ways, interleaved round by round against one server: redis-py's pipeline, a bare loop of hiredis's ``pack_command`` and
``Reader``, and the link. Run it with: python -m bench.link
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio import Redis

from demo.redis import RedisServer
from shared.redis_client import Command, ServerLink
from shared.settings import RedisSettings

BATCH: Final = 128
BATCHES: Final = 150
ROUNDS: Final = 7
ALONE: Final = 2000
TWEET: Final = ("id", "1234567", "user", "user1234567", "text", "hello " * 12, "location", "India", "hashtags", "a,b,c")
Send = Callable[[list[Command]], Awaitable[Any]]


class Way(Protocol):
    async def send(self, commands: list[Command]) -> list[Any]: ...
    async def close(self) -> None: ...


def main() -> None:
    with RedisServer(search=False) as server:
        asyncio.run(_measured(server))


async def _measured(server: RedisServer) -> None:
    ways: dict[str, Way] = {
        "redis-py pipeline": _RedisPy(server.port),
        "bare bulk loop": _Bare(server.port),
        "link": _Link(server.port),
    }
    link = ways["link"]
    await link.send([("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")])
    await link.send([("XADD", "s", f"{number}-1", *TWEET) for number in range(1, BATCHES * BATCH + 1)])
    await link.send([("XREADGROUP", "GROUP", "g", "dead", "COUNT", BATCHES * BATCH, "STREAMS", "s", ">")])
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            costs[name].append(await _round(way.send))
    bare = statistics.median(costs["bare bulk loop"])
    print(
        f"client CPU an entry, its four commands together; {ROUNDS} interleaved rounds of {BATCHES} batches of {BATCH}"
    )
    print(f"{'':20}{'median':>9}{'min':>9}{'max':>9}{'of bare':>9}")
    for name, found in costs.items():
        median = statistics.median(found)
        print(f"{name:20}{median:6.2f} µs{min(found):6.2f} µs{max(found):6.2f} µs{median / bare:8.2f}x")
    alone: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            alone[name].append(await _alone(way.send))
    told = (f"{name} {statistics.median(found):.0f} µs" for name, found in alone.items())
    print(f"one PING alone, as many rounds of {ALONE}: {', '.join(told)}")
    for way in ways.values():
        await way.close()


async def _alone(send: Send) -> float:
    """µs of CPU a round trip of one command."""
    began_s = time.process_time()
    for _ in range(ALONE):
        await send([("PING",)])
    return (time.process_time() - began_s) / ALONE * 1e6


async def _round(send: Send) -> float:
    """µs of CPU an entry: XRANGE, XCLAIM and XACK for all of a batch, HSET for each, as gather does."""
    began_s = time.process_time()
    for batch in _batches():
        await send([("XRANGE", "s", batch[0], batch[-1], "COUNT", BATCH)])
        await send([("XCLAIM", "s", "g", "janitor", 0, *batch, "JUSTID")])
        await send([("HSET", b"tweet:" + entry_id, *TWEET) for entry_id in batch])
        await send([("XACK", "s", "no-group", *batch)])  # of no group: the next round finds them pending again
    return (time.process_time() - began_s) / (BATCHES * BATCH) * 1e6


def _batches() -> Iterator[list[bytes]]:
    for at in range(BATCHES):
        yield [b"%d-1" % number for number in range(at * BATCH + 1, (at + 1) * BATCH + 1)]


class _RedisPy:
    def __init__(self, port: int) -> None:
        self._client = Redis(port=port, protocol=3, socket_timeout=None)
        self._client.response_callbacks.clear()

    async def send(self, commands: list[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def close(self) -> None:
        await self._client.aclose()


class _Bare:
    """No login, no timeouts, no errors, no pool: the least that can be done from asyncio."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._nothing = object()
        self._parser = hiredis.Reader(notEnoughData=self._nothing)

    async def send(self, commands: list[Command]) -> list[Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(b"".join([hiredis.pack_command(cast("tuple[bytes]", command)) for command in commands]))
        replies: list[Any] = []
        while len(replies) < len(commands):
            self._parser.feed(await reader.read(65_536))
            while (reply := self._parser.gets()) is not self._nothing:
                replies.append(reply)
        return replies

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()


class _Link:
    def __init__(self, port: int) -> None:
        self._link = ServerLink(RedisSettings("127.0.0.1", port, None, None, False, None), 4, 60.0)

    async def send(self, commands: list[Command]) -> list[Any]:
        return await self._link.pipelined(commands)

    async def close(self) -> None:
        await self._link.close()


if __name__ == "__main__":
    main()
