"""A helper process that talks in lines: a word to it on stdin, one JSON value from it on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent


def bare_environment() -> dict[str, str]:
    """What a helper process may see of the surroundings: somebody may have a production Redis exported."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


class ChildFailed(Exception):
    """A helper process ended without its answer; its own words are on stderr."""


class Child:
    """`python -m module arguments…` in a bare environment."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = " ".join((module, *arguments[:1]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env=bare_environment(),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._name} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def ask(self, word: str) -> Any:
        self.tell(word)
        return self.hear()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def say(value: object) -> None:
    """The child's side: answer with one line."""
    print(json.dumps(value), file=sys.__stdout__, flush=True)
