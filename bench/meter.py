"""What a piece of work took: wall time, this process's CPU and memory, the server's CPU."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.target import Target


@dataclass(frozen=True, slots=True)
class Reading:
    """Measured around one `with` block; the peak is the process's own since it started."""

    seconds: float
    client_cpu_s: float
    client_peak_mb: float
    server_cpu_s: float
    server_main_thread_s: float
    net_in_bytes: int
    net_out_bytes: int
    """What the servers read and sent, replication left out."""


class Meter:
    """Measures its `with` blocks; the server's CPU is the server's own account of it (INFO cpu)."""

    def __init__(self, target: Target) -> None:
        self._clients = [target.client_of(port) for port in target.ports]
        for client in self._clients:
            client.ping()
        self._reading: Reading | None = None

    def reading(self) -> Reading:
        """Of the last block that was measured."""
        assert self._reading, "nothing was measured"
        return self._reading

    def __enter__(self) -> Meter:
        self._server_before = self._server_cpu_s()
        self._bytes_before = self._net_bytes()
        self._cpu_before = _own_cpu_s()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._start
        cpu_s = _own_cpu_s() - self._cpu_before
        process_s, main_thread_s = self._server_cpu_s()
        net_in, net_out = self._net_bytes()
        process_before_s, main_thread_before_s = self._server_before
        self._reading = Reading(
            seconds=seconds,
            client_cpu_s=cpu_s,
            client_peak_mb=_own_peak_mb(),
            server_cpu_s=process_s - process_before_s,
            server_main_thread_s=main_thread_s - main_thread_before_s,
            net_in_bytes=net_in - self._bytes_before[0],
            net_out_bytes=net_out - self._bytes_before[1],
        )

    def _server_cpu_s(self) -> tuple[float, float]:
        """Of the servers' whole processes, and of the one thread of each that runs the commands."""
        used = [_cpu_s(client.info("cpu")) for client in self._clients]
        return sum(process_s for process_s, _ in used), sum(main_thread_s for _, main_thread_s in used)

    def _net_bytes(self) -> tuple[int, int]:
        stats = [client.info("stats") for client in self._clients]
        return tuple(
            sum(stat[f"total_net_{way}_bytes"] - stat.get(f"total_net_repl_{way}_bytes", 0) for stat in stats)
            for way in ("input", "output")
        )


def _cpu_s(cpu: dict[str, float]) -> tuple[float, float]:
    process_s = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    if "used_cpu_user_main_thread" not in cpu:  # only on Linux
        return process_s, process_s
    return process_s, cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _own_peak_mb() -> float:
    """Linux: VmHWM, because ru_maxrss starts at what the process had that forked this one."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1_024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1_024
