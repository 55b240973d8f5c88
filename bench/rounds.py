"""One round of one method: a fresh server, the same entries, a bystander, and a check of the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import RedisCluster

from bench import tweets
from bench.bystander import KEY as BYSTANDER_KEY
from bench.child import Child
from bench.methods import METHODS, REQUEUEING
from bench.prepared import STREAM, PreparedFiles
from bench.setups import SETUPS
from bench.target import INDEX, Target
from monitor.requeued import ORIGINAL_ENTRY_ID, REQUEUE_COUNT

BUSY_ENOUGH = 0.95
ATTEMPTS = 4
SAMPLES = 200


class NotSettled(Exception):
    """A method left something undone; its numbers would mean nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """The raw numbers of one round; `void`: the limit's client could not keep the server busy."""

    section: str
    method: str
    indexed: bool
    entries: int
    number: int
    void: bool
    seconds: float
    client_cpu_s: float
    client_peak_mb: float
    server_cpu_s: float
    server_main_thread_s: float
    bystander: dict[str, float]
    net_in_bytes: int = 0
    net_out_bytes: int = 0

    @property
    def entries_per_s(self) -> float:
        return self.entries / self.seconds

    @property
    def server_busy(self) -> float:
        """The share of the time in which the server's one thread for commands was at work."""
        return self.server_main_thread_s / self.seconds


def run_round(files: PreparedFiles, section: str, method: str, indexed: bool, entries: int, number: int) -> list[Round]:
    """Run one round; of the limit, again while it is void. The attempts, of which the last one counts."""
    attempts: list[Round] = []
    while not attempts or (attempts[-1].void and len(attempts) < ATTEMPTS):
        attempts.append(_attempt(files, section, method, indexed, entries, number))
    return attempts


def _attempt(files: PreparedFiles, section: str, method: str, indexed: bool, entries: int, number: int) -> Round:
    with SETUPS[METHODS[method].setup](files, entries, indexed) as target:
        with Child("bench.worker", method, target.to_json()) as worker:
            worker.hear()
            target.seed(files)
            check_seeded(target)
            with Child("bench.bystander", str(target.bystander_port or target.port)) as bystander:
                bystander.hear()
                bystander.tell("go")
                reading = worker.ask("go")
                latencies = bystander.ask("stop")
        (check_requeued if method in REQUEUEING else check_settled)(target)
    busy = reading["server_main_thread_s"] / reading["seconds"]
    void = METHODS[method].module == "limit" and busy < BUSY_ENOUGH
    return Round(section, method, indexed, entries, number, void, **reading, bystander=latencies)


def check_seeded(target: Target) -> None:
    if target.pending() != target.entries:
        raise NotSettled(f"seeding left {target.pending()} entries pending instead of {target.entries}")


def check_settled(target: Target) -> None:
    """All is acknowledged, each tweet has its hash, a sample is right byte for byte, the index has it all.

    Raises NotSettled.
    """
    pending = target.pending()
    keys = list(target.keys())
    sample = keys[:: max(1, len(keys) // SAMPLES)]
    with target.reader() as reader:
        stored = _stored_in_cluster(reader, target) if target.cluster_ports else _stored(reader, keys)
        wrong = [number for number, key in sample if reader.hgetall(key) != tweets.fields(number)]
        indexed = _documents(reader) if target.indexed else target.entries
    if pending or stored != target.entries or wrong or indexed != target.entries:
        raise NotSettled(
            f"of {target.entries} entries {pending} are pending, {stored} stored, {indexed} indexed; "
            f"{len(wrong)} of {len(sample)} looked at are not what the entry held"
        )


def check_requeued(target: Target) -> None:
    """All is acknowledged, each tweet is in the stream once more, and a sample is right byte for byte.

    Raises NotSettled.
    """
    own = (ORIGINAL_ENTRY_ID.decode(), REQUEUE_COUNT.decode())
    with target.client() as client:
        first = client.xinfo_stream(STREAM)["length"] - target.entries
        copies = client.xrange(
            STREAM, f"({tweets.entry_id(target.entries - 1).decode()}", "+", count=target.entries + 1
        )
    seen = {_decoded(fields).pop(own[0], ""): _decoded(fields) for _, fields in copies}
    step = max(1, target.entries // SAMPLES)
    wrong = [
        number
        for number in range(0, target.entries, step)
        if {name: value for name, value in seen.get(tweets.entry_id(number).decode(), {}).items() if name not in own}
        != _decoded(tweets.fields(number))
    ]
    pending = target.pending()
    if pending or first != target.entries or len(seen) != target.entries or wrong:
        raise NotSettled(
            f"of {target.entries} entries {pending} are pending, {len(seen)} are there again among {first} more; "
            f"{len(wrong)} looked at are not what the entry held"
        )


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in fields.items()
    }


def _stored(reader: Any, keys: list[tuple[int, str]]) -> int:
    names = [key for _, key in keys]
    return sum(int(reader.exists(*names[start : start + 1_000])) for start in range(0, len(names), 1_000))


def _stored_in_cluster(reader: Any, target: Target) -> int:
    """All of the masters' keys but the streams and the bystander's: one EXISTS may not name several slots."""
    return (
        int(reader.dbsize(target_nodes=RedisCluster.PRIMARIES))
        - len(target.streams)
        - int(reader.exists(BYSTANDER_KEY))
    )


def _documents(client: Any) -> int:
    reply = client.execute_command("FT.INFO", INDEX)
    info = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return int(info[b"num_docs"] if b"num_docs" in info else info["num_docs"])
