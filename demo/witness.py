"""A witness: every command that the server ran and that concerns the example's stream and hashes, by the server's own clock.

MONITOR tells each command with its time, those that a script runs included (as `lua`), and leaves none out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.settings import StreamSettings

_LINE = re.compile(r"(?P<s>\d+)\.(?P<us>\d{6}) \[\d+ (?P<by>[^\]]+)\] (?P<words>.*)")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')
BY_SCRIPT = "lua"


@dataclass(frozen=True, slots=True)
class Command:
    """One command as the server ran it."""

    at_us: int
    """Microseconds since the epoch, by the server's clock."""
    by_script: bool
    words: tuple[str, ...]
    """As MONITOR shows them: what is no printable ASCII is escaped."""


@dataclass(slots=True)
class Witness:
    """What was seen so far: the commands named in `watched` on keys of this example."""

    settings: StreamSettings
    commands: list[Command] = field(default_factory=list)
    watched: tuple[str, ...] = ("HSET", "XACK", "XCLAIM")

    def note(self, line: str) -> None:
        command = parsed(line)
        if command is None or command.words[0].upper() not in self.watched:
            return
        key = command.words[1]
        if key == self.settings.stream or key.startswith(self.settings.hash_prefix):
            self.commands.append(command)

    def named(self, name: str) -> list[Command]:
        return [command for command in self.commands if command.words[0].upper() == name]

    def acknowledged(self) -> set[str]:
        """The ids that somebody asked to acknowledge."""
        return {entry_id for command in self.named("XACK") for entry_id in command.words[3:]}


def parsed(line: str) -> Command | None:
    """One line of MONITOR; None if it is none."""
    match = _LINE.fullmatch(line)
    words = tuple(_WORD.findall(match["words"])) if match else ()
    if match is None or len(words) < 2:
        return None
    return Command(int(match["s"]) * 1_000_000 + int(match["us"]), match["by"] == BY_SCRIPT, words)


@contextlib.asynccontextmanager
async def watching(client: Redis, witness: Witness) -> AsyncIterator[None]:
    """Watch while the block runs; at its end, all that ran before is noted.

    Raises at the end what cut the watching short: a check must not hold for want of a witness.
    """
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    await connection.send_command("MONITOR")
    await connection.read_response()
    last_word = f"witness {id(witness)}"

    async def listen() -> None:
        while last_word not in (line := (await connection.read_response()).decode("ascii", "replace")):
            witness.note(line)

    task = asyncio.create_task(listen())
    try:
        yield
        await client.echo(last_word)
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.disconnect()
