"""What a tick costs that finds nothing to do: in an empty group, a busy one, one that is catching up."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from bench.child import Child
from bench.prepared import GROUP, MIN_IDLE_S, STREAM, PreparedFiles, Seed
from bench.target import Target
from demo.redis import RedisServer

NOTHING = "nothing"
STATES = (None, Seed.IN_FLIGHT, Seed.CATCHING_UP)
LOGGED_FROM_US = 100


@dataclass(frozen=True, slots=True)
class IdleTicks:
    """Some ticks, one after the other, over a group in which nothing is old enough to be taken up.

    `slowest_ms`: the longest that one of their commands blocked the server, by its SLOWLOG; 0 if none took a
    tenth of a millisecond. `scan_ms`: one `XPENDING … IDLE` over the same list, which no tick sends.
    """

    state: str
    pending: int
    ticks_s: list[float]
    client_cpu_s: list[float]
    slowest_command: str
    slowest_ms: float
    scan_ms: float
    bystander: dict[str, float]


def measure_idle_ticks(files: PreparedFiles, entries: int, ticks: int) -> list[IdleTicks]:
    return [_measure(files, state, entries, ticks) for state in STATES]


def _measure(files: PreparedFiles, state: Seed | None, entries: int, ticks: int) -> IdleTicks:
    with RedisServer(search=True) as server:
        target = Target(server.port, entries, indexed=True)
        target.create_groups_and_index()
        with Child("bench.worker", "tick", target.to_json()) as worker, target.client() as client:
            worker.hear()
            if state:
                files.seed(server.port, state, entries)
            pending = target.pending()
            watch_slow_commands(client)
            with Child("bench.bystander", str(server.port)) as bystander:
                bystander.hear()
                bystander.tell("go")
                readings = [worker.ask("tick") for _ in range(ticks)]
                latencies = bystander.ask("stop")
            command, slowest_ms = slowest_command(client)
            scan_ms = _scan_ms(client)
        if target.pending() != pending:
            raise RuntimeError("an idle tick settled something: these were no idle ticks")
    return IdleTicks(
        state=state.value if state else NOTHING,
        pending=pending,
        ticks_s=[reading["seconds"] for reading in readings],
        client_cpu_s=[reading["client_cpu_s"] for reading in readings],
        slowest_command=command,
        slowest_ms=slowest_ms,
        scan_ms=scan_ms,
        bystander=latencies,
    )


def watch_slow_commands(client: Redis) -> None:
    client.config_set("slowlog-max-len", 1_000_000)
    client.config_set("slowlog-log-slower-than", LOGGED_FROM_US)
    client.slowlog_reset()


def slowest_command(client: Redis) -> tuple[str, float]:
    """Its name and milliseconds; the meter's own INFO does not count."""
    logged = [
        (entry["duration"] / 1_000, entry["command"].split()[0].decode()) for entry in client.slowlog_get(1_000_000)
    ]
    slowest_ms, name = max((entry for entry in logged if entry[1] != "INFO"), default=(0.0, ""))
    return name, slowest_ms


def _scan_ms(client: Redis) -> float:
    client.slowlog_reset()
    client.xpending_range(STREAM, GROUP, "-", "+", 1_000, idle=1_000 * MIN_IDLE_S)
    name, slowest_ms = slowest_command(client)
    return slowest_ms if name == "XPENDING" else 0.0
