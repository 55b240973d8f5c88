"""What a sweep over large entries takes: a bounded amount of memory, whatever there is to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.redis import RedisServer
from tests.conftest import Scene, new_scene, raw_client

pytestmark = pytest.mark.more

ROOT = Path(__file__).parent.parent
ENTRIES, ENTRY_BYTES = 1000, 1_000_000
MOST_MB = 200

MEASURED_SWEEP = """
import asyncio, json, resource, sys
from monitor.janitor import Janitor
from shared.settings import Settings

async def main():
    janitor = Janitor(Settings.from_env())
    (report,) = await janitor.tick()
    await janitor.close()
    print(json.dumps({"processed": report.processed, "error": report.error, "peak_mb": peak_bytes() / 1e6}))

def peak_bytes():
    if sys.platform == "linux":  # getrusage counts what the parent had before the exec
        (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def thousand_large_entries() -> Iterator[Scene]:
    """A stream of a thousand entries of 1 MB, made inside the server; each test brings a group and a prefix of its own."""
    with RedisServer(search=False) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, INDEX_SCHEMA="off")
        client.execute_command(
            "EVAL",
            "local blob = string.rep('x', ARGV[1])"
            " for i = 1, ARGV[2] do redis.call('XADD', KEYS[1], i .. '-0', 'id', i, 'blob', blob) end",
            1, scene.stream, ENTRY_BYTES, ENTRIES,
        )  # fmt: skip
        yield scene
        client.close()


@pytest.fixture
def scene(thousand_large_entries: Scene, mode: str) -> Iterator[Scene]:
    """All of them pending and idle in one more group; the server holds two gigabytes at the end of the sweep."""
    stream, group, client = thousand_large_entries.stream, f"group-{mode}", thousand_large_entries.raw
    client.execute_command("XGROUP", "CREATE", stream, group, "0")
    # FORCE: pending without having carried a gigabyte to a consumer.
    ids = [f"{number}-0" for number in range(1, ENTRIES + 1)]
    client.execute_command("XCLAIM", stream, group, "crashed", 0, *ids, "IDLE", 60_000, "FORCE", "JUSTID")
    changes = {"STREAM_CONSUMER_GROUP_NAME": group, "HASH_PREFIX": f"{mode}:", "SETTLE_MODE": mode}
    slow = {"SWEEP_BUDGET_SEC": "50", "MONITOR_SCHEDULE": "0 * * * * *"}
    scene = Scene(client, {**thousand_large_entries.environment, **changes, **slow}, stream, group)
    yield scene
    for key in scene.hashes():
        client.execute_command("DEL", key)


def test_thousand_idle_entries_of_1_mb_stay_under_200_mb(scene: Scene) -> None:
    assert scene.pending() == ENTRIES
    run = subprocess.run(
        [sys.executable, "-c", MEASURED_SWEEP],
        cwd=ROOT,
        env=scene.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    assert (measured["error"], measured["processed"], scene.pending()) == (None, ENTRIES, 0)
    assert measured["peak_mb"] <= MOST_MB, measured
