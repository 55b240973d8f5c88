"""Janitors in processes of their own, 5 ms each: a process that has imported everything forks one for each order.

Orders come on stdin as lines of JSON: `{"environment": …, "flaws": null | {…}}`. Answers on stdout: the child's pid, later
`ended`. The child stays a zombie until the next order, so that its pid, which somebody may be about to kill, is no one else's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class Zygote:
    """The process that forks; a context manager. One child at a time."""

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=ROOT,
            env={"PATH": os.defpath, "PYTHONUTF8": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def start(self, environment: dict[str, str], flaws: dict[str, bool] | None) -> int:
        """Have a janitor tick once in a process of its own; its pid."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"environment": environment, "flaws": flaws}).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._line())

    async def ended(self) -> None:
        """Wait until that process has ended, however."""
        line = await asyncio.to_thread(self._line)
        assert line == b"ended\n", line

    def _line(self) -> bytes:
        assert self._process.stdout
        return self._process.stdout.readline()


def _tick(order: dict[str, Any]) -> None:
    from monitor.janitor import Janitor
    from shared.settings import Settings
    from tests.naive_janitor import naive

    settings = Settings.from_env(order["environment"])

    async def once() -> None:
        janitor = Janitor(settings) if order["flaws"] is None else naive(**order["flaws"])(settings)
        await janitor.tick()
        await janitor.close()

    asyncio.run(once())


def _serve() -> None:
    import tests.naive_janitor  # noqa: F401 - imported once, here, for every child

    logging.getLogger().setLevel(logging.CRITICAL)
    for line in sys.stdin.buffer:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                _tick(json.loads(line))
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print("ended", flush=True)
        _next_order_reaps(pid)


_zombies: list[int] = []


def _next_order_reaps(pid: int) -> None:
    _zombies.append(pid)
    if len(_zombies) > 1:
        os.waitpid(_zombies.pop(0), 0)


if __name__ == "__main__":
    _serve()
