"""Drives the command line as people and programs do: in a process of its own, through a terminal or through pipes."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from monitor.cli.main import main
from tests.conftest import DAY_MS, Scene

PROJECT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "monitor")
TIMEOUT_S = 30
HOSTILE = b"\x1b[2J\x1b]0;owned\x07\r\x7f\x9b31m\xc2\x9b31m[bold]markup[/bold]:smile:\xe2\x80\xae\xff"
"""Clears the screen, sets the title, returns the carriage, turns the reading direction round, is no UTF-8."""
_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ran:
    """A run that has ended. Through a terminal ``out`` holds both streams."""

    code: int
    out: str
    err: str = ""

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record


def surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours gets: nothing of ours that may be exported around the tests."""
    return {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment}


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=PROJECT, env=surroundings(environment), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Ran(process.returncode, out, err)


def piped(environment: Mapping[str, str], *arguments: str) -> Ran:
    return finished(start(environment, *arguments))


def inside(environment: Mapping[str, str], *arguments: str) -> Ran:
    """Run in this process, as through a pipe: quicker, where neither a terminal nor signals matter."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, surroundings(environment), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(arguments)
    return Ran(code, out.getvalue(), err.getvalue())


def on_terminal(environment: Mapping[str, str], *arguments: str, answer: bytes = b"") -> Ran:
    """Run on a pseudo-terminal of 160 by 50; ``answer`` is typed in once a question is asked."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=PROJECT, env=surroundings(environment), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    try:
        return Ran(*_carried_on(process, ours, answer))
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def _carried_on(process: subprocess.Popen[bytes], terminal: int, answer: bytes) -> tuple[int, str]:
    seen = b""
    while chunk := _read(terminal):
        seen += chunk
        if answer and b"[y/N]" in seen:
            os.write(terminal, answer)
            answer = b""
    return process.wait(TIMEOUT_S), seen.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    readable, _, _ = select.select([terminal], [], [], TIMEOUT_S)
    assert readable, "nothing came for too long"
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the last one has closed the other end
        return b""


def without_styles(text: str) -> str:
    """Terminal text without colours and cursor movements."""
    return _STYLES.sub("", text).replace("\r", "")


def dangerous(text: str) -> set[str]:
    """The characters in it that steer a terminal or hide what stands there."""
    return {
        character for character in text if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs")
    }


def eventually(is_so: Callable[[], bool], within_s: float = 15.0) -> None:
    """Wait until it is so."""
    end_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.01)


def make_dead_letters(
    scene: Scene, count: int, *, reason: str = "hash key holds another type", group: str = ""
) -> list[bytes]:
    """Dead letters as the janitor writes them, of tweets that could be stored by now; their ids."""
    pipeline = scene.raw.pipeline(transaction=False)
    for number in range(count):
        entry_id = f"{int(time.time() * 1000) - DAY_MS}-{number}"
        provenance = (
            "stream", scene.stream, "group", group or scene.group, "entry_id", entry_id, "reason", reason,
            "deliveries", 3, "last_consumer", "crashed", "dead_at_ms", int(time.time() * 1000),
        )  # fmt: skip
        pipeline.execute_command("XADD", f"{scene.stream}:dead", "*", *provenance, "id", f"d{number}", "text", "hello")
    ids: list[bytes] = pipeline.execute()
    return ids
