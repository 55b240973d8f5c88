"""The checks at the end of a run: nothing that was produced is missing, changed, or still pending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from demo.archive import Archive
from demo.queries import count_documents
from demo.scene import Scene
from monitor.entry_key import EntryKey
from shared.settings import StreamSettings

PAGE_SIZE = 500
INDEXING_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, told with the numbers that were found."""

    text: str
    holds: bool


async def check_run(client: Redis, scene: Scene) -> list[Check]:
    """What holds where every entry has a hash of its own: each is there, searchable, unchanged, and acknowledged."""
    settings, produced = scene.example.stream, scene.produced
    documents = await documents_once_indexed(client, settings, produced)
    in_stream = int(await client.xlen(settings.stream))
    entries = in_stream if scene.archive is None else len(scene.archive.entries)
    sign = "=" if produced == documents else "≠"
    return [
        Check(
            f"{produced:,} {scene.example.things} produced {sign} {documents:,} documents in the index",
            produced == documents == entries and produced > 0,
        ),
        await nothing_pending(client, settings),
        await hashes_equal_entries(client, settings, produced, scene.archive),
        ticks_went_well(scene),
        *(() if scene.archive is None else (all_was_trimmed(scene, in_stream),)),
    ]


def all_was_trimmed(scene: Scene, in_stream: int) -> Check:
    return Check(
        f"{scene.trimmed:,} entries trimmed once both groups had finished with them, {in_stream:,} left in the stream",
        scene.trimmed + in_stream == scene.produced and in_stream == 1,
    )


async def nothing_pending(client: Redis, settings: StreamSettings) -> Check:
    pending = await count_pending(client, settings)
    return Check(f"pending = {pending:,}", pending == 0)


async def hashes_equal_entries(
    client: Redis, settings: StreamSettings, expected: int, archive: Archive | None = None
) -> Check:
    """So many entries, of the stream or of an archive of it, have a hash that holds exactly their fields."""
    equal = 0
    async for entries in pages(client, settings.stream) if archive is None else archive.pages(PAGE_SIZE):
        keys = [hash_key(settings, entry_id, fields) for entry_id, fields in entries]
        hashes = await read_hashes(client, [key for key in keys if key])
        equal += sum(hashes[key] == fields for key, (_, fields) in zip(keys, entries, strict=True) if key)
    return Check(f"{equal:,} of {expected:,} hashes hold, byte for byte, what their entries held", equal == expected)


def ticks_went_well(scene: Scene) -> Check:
    failed, janitors = scene.failed_ticks(in_outage=False), scene.example.janitors
    excused = scene.failed_ticks(in_outage=True)
    in_outage = f" and {excused} while a master was away" if excused else ""
    timers = "the timer" if janitors == 1 else f"{janitors} timers"
    return Check(
        f"{len(scene.ticks)} ticks of {timers}, {failed} failed{in_outage}; recovered: {scene.recovered:,}",
        failed == 0 and scene.recovered > 0,
    )


async def count_pending(client: Redis, settings: StreamSettings) -> int:
    summary: dict[str, Any] = await client.xpending(settings.stream, settings.group)
    return int(summary["pending"])


async def documents_once_indexed(client: Redis, settings: StreamSettings, expected: int) -> int:
    """An index that was made after the first hashes takes those up in the background: wait, bounded."""
    deadline = time.monotonic() + INDEXING_TIMEOUT_S
    while True:
        try:
            documents = await count_documents(client, settings.index_name)
        except ResponseError:
            documents = 0
        if documents >= expected or time.monotonic() > deadline:
            return documents
        await asyncio.sleep(0.1)


def hash_key(settings: StreamSettings, entry_id: bytes, fields: Mapping[bytes, bytes]) -> bytes | None:
    """Where an entry is stored; None if it lacks an id field."""
    flat = [part for pair in fields.items() for part in pair]
    key, _ = EntryKey(settings).of(flat, entry_id)
    return key


async def read_hashes(client: Redis, keys: list[bytes]) -> dict[bytes, dict[bytes, bytes]]:
    """What each key holds; nothing if it is not there."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hgetall(key)
    return dict(zip(keys, await pipeline.execute(), strict=True))


async def pages(client: Redis, stream: str) -> AsyncIterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    """All entries of a stream, a page at a time."""
    start = b"-"
    while True:
        page: Any = await client.xrange(stream, min=start, count=PAGE_SIZE)
        if not page:
            return
        yield page
        time_ms, sequence = page[-1][0].split(b"-")
        start = b"%s-%d" % (time_ms, int(sequence) + 1)
