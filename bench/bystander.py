"""Someone else who uses the same server: GETs one key every millisecond and writes down how long each took.

A process of its own, `python -m bench.bystander PORT`: a plain socket in a loop, a few per cent of one core.
Each latency is from sending the command to having its reply; while it waits it asks nothing else, so a stall
of the server is one slow request, not many.
"""

from __future__ import annotations

import sys
import threading
import time
from statistics import quantiles

from bench.child import say
from bench.wire import connect, encode

INTERVAL_S = 0.001
KEY, VALUE = b"bystander", b"x" * 100


def main() -> None:
    with connect(int(sys.argv[1])) as connection:
        connection.sendall(encode(b"SET", KEY, VALUE))
        connection.recv(1_024)
        say("ready")
        sys.stdin.readline()
        stopped = threading.Event()
        threading.Thread(target=_stop_on_next_line, args=(stopped,), daemon=True).start()
        latencies_s = []
        cpu_before, start = time.process_time(), time.perf_counter()
        command = encode(b"GET", KEY)
        while not stopped.is_set():
            sent = time.perf_counter()
            connection.sendall(command)
            connection.recv(1_024)
            received = time.perf_counter()
            latencies_s.append(received - sent)
            # The next whole millisecond since the start, so that a slow request shifts no later one.
            time.sleep(INTERVAL_S - (received - start) % INTERVAL_S)
        elapsed = time.perf_counter() - start
        say(_summary(latencies_s) | {"cpu_share": (time.process_time() - cpu_before) / elapsed})


def _stop_on_next_line(stopped: threading.Event) -> None:
    sys.stdin.readline()
    stopped.set()


def _summary(latencies_s: list[float]) -> dict[str, float]:
    if len(latencies_s) < 2:
        return {"requests": len(latencies_s), "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    percentiles = quantiles(latencies_s, n=100, method="inclusive")
    return {
        "requests": len(latencies_s),
        "p50_ms": 1_000 * percentiles[49],
        "p99_ms": 1_000 * percentiles[98],
        "max_ms": 1_000 * max(latencies_s),
    }


if __name__ == "__main__":
    main()
