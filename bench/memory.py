"""What an entry takes of the server's memory, with each example's data: in the stream, pending, as hash, indexed, dead."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis import Redis

from demo.example import Example, Item, Production
from demo.examples import EXAMPLES
from demo.redis import RedisServer
from monitor.janitor import Janitor
from shared.settings import Settings, StreamSettings

SEED = 20_200_408
AT_ONCE = 1_000
ABANDONED_FOR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the server's `used_memory` for each of them; `payload` is what the entries' names and values add up to."""

    example: str
    entries: int
    hashes: int
    payload: float
    in_stream: float
    pending: float
    hash: float
    index: float
    dead_letter: float


def measure_memory(entries: int) -> list[Memory]:
    storing = [example for example in EXAMPLES.values() if example.stream.action == "store"]
    return [_measure(example, entries) for example in storing]


def _measure(example: Example, entries: int) -> Memory:
    stream = example.stream
    items = [_fields(item) for item in _items(example, entries)]
    with RedisServer(search=True) as server, Redis(port=server.port) as client:
        settings = (
            example.values
            | server.environment
            | {
                "INDEX_SCHEMA": "off",
                "RECOVERY_RATE_LIMIT": "0",
                "DEAD_LETTER_BRAKE": "off",  # all of them are dead-lettered once, to be weighed
            }
        )
        client.xgroup_create(stream.stream, stream.group, "0", mkstream=True)
        _warm_up(client, settings, stream, items[:1])
        empty = _used(client)
        _add(client, stream, items)
        added = _used(client)
        _abandon(client, stream)
        abandoned = _used(client)
        asyncio.run(_sweep(settings))
        stored = _used(client)
        hashes = client.dbsize() - 1
        _create_index(client, stream)
        indexed = _used(client)
        dead_letter = _dead_letter_bytes(client, settings, stream, items)
    return Memory(
        example=example.name,
        entries=entries,
        hashes=hashes,
        payload=sum(len(word.encode()) for fields in items for pair in fields.items() for word in pair) / entries,
        in_stream=(added - empty) / entries,
        pending=(abandoned - added) / entries,
        hash=(stored - added) / hashes,
        index=(indexed - stored) / hashes,
        dead_letter=dead_letter,
    )


def _warm_up(client: Any, settings: dict[str, str], stream: StreamSettings, items: list[dict[str, str]]) -> None:
    """Scripts and consumers are there from now on: they are no entry's."""
    _add(client, stream, items)
    _abandon(client, stream)
    asyncio.run(_sweep(settings))
    client.delete(*client.keys(f"{stream.hash_prefix}*"))


def _items(example: Example, entries: int) -> Iterator[Item]:
    bursts = example.produce(Production(SEED, example.rate or 100.0))
    return itertools.islice((item for _, burst in bursts for item in burst), entries)


def _fields(item: Item) -> dict[str, str]:
    return dict(item.fields)


def _used(client: Any) -> int:
    client.execute_command("MEMORY", "PURGE")
    return int(client.info("memory")["used_memory"])


def _add(client: Any, stream: StreamSettings, items: list[dict[str, str]]) -> None:
    for start in range(0, len(items), AT_ONCE):
        with client.pipeline(transaction=False) as pipeline:
            for fields in items[start : start + AT_ONCE]:
                pipeline.xadd(stream.stream, fields)
            pipeline.execute()


def _abandon(client: Any, stream: StreamSettings) -> None:
    while answer := client.xreadgroup(stream.group, "consumer", {stream.stream: ">"}, count=AT_ONCE):
        ids = [entry_id for entry_id, _ in answer[0][1]]
        client.xclaim(stream.stream, stream.group, "consumer", 0, ids, idle=ABANDONED_FOR_MS, justid=True)


async def _sweep(settings: dict[str, str]) -> None:
    """Every janitor looks no further than entries may have been idle; ids are young here, so the patience is none."""
    janitor = Janitor(Settings.from_env(settings | {"MIN_IDLE_TIME_SEC": "0", "SWEEP_BUDGET_SEC": "19"}))
    (report,) = await janitor.tick()
    await janitor.close()
    if report.error or not report.complete:
        raise RuntimeError(f"not all entries were settled: {report}")


def _create_index(client: Any, stream: StreamSettings) -> None:
    assert stream.index_schema is not None
    head = ("ON", "HASH", "PREFIX", 1, stream.hash_prefix, "SCHEMA")
    client.execute_command("FT.CREATE", stream.index_name, *head, *stream.index_schema)
    while int(_info(client, stream.index_name)["indexing"]):
        time.sleep(0.05)


def _info(client: Any, index: str) -> dict[str, Any]:
    reply = client.execute_command("FT.INFO", index)
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode() if isinstance(name, bytes) else name: value for name, value in pairs}


def _dead_letter_bytes(
    client: Any, settings: dict[str, str], stream: StreamSettings, items: list[dict[str, str]]
) -> float:
    """The same entries without the field that identifies them: no janitor can store those."""
    nameless = [{name: value for name, value in item.items() if name != stream.id_fields[0]} for item in items]
    _add(client, stream, nameless)
    before = _used(client)
    _abandon(client, stream)
    asyncio.run(_sweep(settings))
    letters = int(client.xlen(stream.dead_letter_stream))
    return (_used(client) - before) / letters
