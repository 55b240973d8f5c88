"""The other programs of the pipeline, each a process of its own, and the facts that they tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from demo.printable import printable

Facts = dict[str, Any]
# What a child needs of the surroundings. The rest stays outside: REDIS_* may lead to production.
PASSED_ON = ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
LINE_LIMIT_BYTES = 1 << 22
STOP_TIMEOUT_S = 20.0


class Child:
    """One running program. Its facts go to `on_facts`, what it says on stderr to `on_words`, line by line."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, readers: Sequence[asyncio.Task[None]]) -> None:
        self.name = name
        self._process = process
        self._readers = readers

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_facts: Callable[[Facts], None],
        on_words: Callable[[str], None],
    ) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_passed_on() | {"PYTHONUTF8": "1"} | dict(environment),
            start_new_session=True,  # Ctrl-C is for the demo, which then stops its children in order
            limit=LINE_LIMIT_BYTES,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        readers = (
            asyncio.create_task(_each_line(process.stdout, lambda line: on_facts(json.loads(line)))),
            asyncio.create_task(_each_line(process.stderr, lambda line: on_words(f"{name}: {printable(line)}"))),
        )
        return cls(name, process, readers)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for its end and for the last of its words; returns the exit code."""
        code = await self._process.wait()
        await asyncio.gather(*self._readers)
        return code

    async def stop(self) -> int:
        """Ask it to end once its work at hand is done."""
        self._send(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), STOP_TIMEOUT_S)
        except asyncio.TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it at once, wherever it is: SIGKILL."""
        self._send(signal.SIGKILL)
        return await self.wait()

    def _send(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _passed_on() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


async def _each_line(stream: asyncio.StreamReader, take: Callable[[str], None]) -> None:
    async for line in stream:
        take(line.decode("utf-8", "replace").rstrip("\n"))
