"""What extras cost a cold start: `python -m deploy.cold_start entra azure-monitor`, beside the plain package.

Each package's requirements are installed into a folder of their own. Timed in fresh processes, in turns: function_app imported
and its first idle tick done, and the libraries imported that the extras bring into use (for Azure Monitor the platform's worker
imports them). Python's own start and the platform's are in no number.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from demo.redis import RedisServer
from deploy import azure_package

ROUNDS = 7
TICK = """
import sys, time
sys.path.insert(0, {packages!r})
start = time.perf_counter()
import asyncio, function_app
from azure.functions.timer import TimerRequest
try:
    asyncio.run(function_app.monitor(TimerRequest()))
except Exception as error:
    if "no consumer group" not in str(error):
        raise
print(time.perf_counter() - start)
"""
IMPORTS = """
import sys, time
sys.path.insert(0, {packages!r})
start = time.perf_counter()
import {modules}
print(time.perf_counter() - start)
"""
SITE_PACKAGES = Path(".python_packages") / "lib" / "site-packages"
IN_USE = {"entra": "redis_entraid.cred_provider, azure.identity", "azure-monitor": "azure.monitor.opentelemetry"}
SETTINGS = {
    "STREAM_NAME": "stream",
    "STREAM_CONSUMER_GROUP_NAME": "group",
    "MONITORING_CONSUMER_NAME": "janitor",
    "MIN_IDLE_TIME_SEC": "60",
}


def main(extras: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer(search=False) as server:
        pip, environment = _newest_pip(Path(folder)), {**server.environment, **SETTINGS}
        codes = {
            f"{title}: import and first tick": (package, TICK.format(packages=str(packages)))
            for title, package, packages in _packages(Path(folder), pip, extras)
        }
        package, _ = next(reversed(codes.values()))
        modules = {name: IN_USE[name] for name in extras if name in IN_USE}
        packages = package / SITE_PACKAGES
        codes |= {
            f"{name}: importing what it uses": (package, IMPORTS.format(packages=str(packages), modules=used))
            for name, used in modules.items()
        }
        for one, code in codes.values():
            _run_s(code, one, environment)  # writes the byte code, fills the page cache
        # In turns, so that a busy machine is busy for all of them.
        rounds = [
            {title: _run_s(code, package, environment) for title, (package, code) in codes.items()}
            for _ in range(ROUNDS)
        ]
        for title in codes:
            print(f"{title}: {statistics.median(one[title] for one in rounds) * 1000:.0f} ms")


def _packages(folder: Path, pip: Path, extras: list[str]) -> Iterator[tuple[str, Path, Path]]:
    for names in ([], extras):
        title = " ".join(names) or "plain"
        package = folder / title.replace(" ", "-")
        azure_package.write(names, package)
        packages = _installed(pip, package)
        size = (
            sum(path.stat().st_size for path in packages.rglob("*") if path.suffix != ".pyc" and path.is_file()) / 1e6
        )
        print(f"{title}: {size:.0f} MB of packages")
        yield title, package, packages


def _newest_pip(folder: Path) -> Path:
    """A pip of its own: that of a virtual environment may be too old to find versions that go together."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = folder / "venv" / "bin" / "pip"
    subprocess.run([str(pip), "install", "--quiet", "--upgrade", "pip"], check=True, stderr=subprocess.DEVNULL)
    return pip


def _installed(pip: Path, package: Path) -> Path:
    target = package / SITE_PACKAGES
    requirements = str(package / "requirements.txt")
    install = [str(pip), "install", "--quiet", "--target", str(target), "-r", requirements]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    return target


def _run_s(code: str, package: Path, environment: dict[str, str]) -> float:
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=package, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return float(run.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
