"""What extras cost a cold start: `python -m deploy.cold_start entra azure-monitor`, beside the plain package.

Each package's requirements are installed into a folder of their own. In fresh processes, one after the other: function_app imported
and its first idle tick done, and the libraries imported that the extras bring into use (the platform's worker does that for Azure
Monitor). Python's own start and the platform's are in no number.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
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
IN_USE = {"entra": "redis_entraid.cred_provider, azure.identity", "azure-monitor": "azure.monitor.opentelemetry"}
SETTINGS = {
    "STREAM_NAME": "stream",
    "STREAM_CONSUMER_GROUP_NAME": "group",
    "MONITORING_CONSUMER_NAME": "janitor",
    "MIN_IDLE_TIME_SEC": "60",
}


def main(extras: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer(search=False) as server:
        pip = _newest_pip(Path(folder))
        for names in ([], extras):
            package = Path(folder) / ("-".join(names) or "plain")
            azure_package.write(names, package)
            packages = _installed(pip, package)
            size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
            environment = {**server.environment, **SETTINGS}
            tick_ms = _median_ms(TICK.format(packages=str(packages)), package, environment)
            print(f"{' '.join(names) or 'plain'}: {size:.0f} MB, import and first tick {tick_ms:.0f} ms")
            for name in names:
                if name in IN_USE:
                    code = IMPORTS.format(packages=str(packages), modules=IN_USE[name])
                    print(f"  {name}: importing what it uses {_median_ms(code, package, {}):.0f} ms")


def _newest_pip(folder: Path) -> Path:
    """A pip of its own: that of a virtual environment may be too old to find versions that go together."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = folder / "venv" / "bin" / "pip"
    subprocess.run([str(pip), "install", "--quiet", "--upgrade", "pip"], check=True, stderr=subprocess.DEVNULL)
    return pip


def _installed(pip: Path, package: Path) -> Path:
    target = package / ".python_packages" / "lib" / "site-packages"
    requirements = str(package / "requirements.txt")
    install = [str(pip), "install", "--quiet", "--target", str(target), "-r", requirements]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    return target


def _median_ms(code: str, package: Path, environment: dict[str, str]) -> float:
    """The median of the rounds; the first, which fills the page cache, weighs no more than any other."""
    return statistics.median(_run_s(code, package, environment) for _ in range(ROUNDS + 1)) * 1000


def _run_s(code: str, package: Path, environment: dict[str, str]) -> float:
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=package, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return float(run.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
