"""A witness: every command that the server ran and that concerns the example's stream and hashes, by the server's own clock.

MONITOR tells each command with its time, those that a script runs included (as `lua`), and leaves none out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from redis.asyncio import Redis

from demo.window import Run
from shared.settings import StreamSettings

_LINE = re.compile(r"(?P<s>\d+)\.(?P<us>\d{6}) \[\d+ (?P<by>[^\]]+)\] (?P<words>.*)")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ENTRY_ID = re.compile(r"\d{10,}-\d+")
BY_SCRIPT = "lua"


@dataclass(frozen=True, slots=True)
class Command:
    """One command as the server ran it."""

    at_us: int
    """Microseconds since the epoch, by the server's clock; of what a script ran, when the script began: a script is one step,
    and time stands still in it."""
    by_script: bool
    words: tuple[str, ...]
    """As MONITOR shows them: what is no printable ASCII is escaped."""

    @property
    def name(self) -> str:
        return self.words[0].upper()


class Witness:
    """What was seen so far of stores, claims and acknowledgements in one stream and its hashes."""

    WATCHED = ("HSET", "XACK", "XCLAIM")

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._script_began_us = 0
        self.commands: list[Command] = []

    def note(self, line: str) -> None:
        """Take one line of MONITOR; they come in the order in which the server ran the commands."""
        command = parsed(line)
        if command is None:
            return
        if command.name in ("EVAL", "EVALSHA"):
            self._script_began_us = command.at_us
        elif command.name in self.WATCHED and self._concerns(command.words[1]):
            at_us = self._script_began_us if command.by_script else command.at_us
            self.commands.append(replace(command, at_us=at_us))

    def _concerns(self, key: str) -> bool:
        return key == self._settings.stream or key.startswith(self._settings.hash_prefix)

    def named(self, *names: str) -> list[Command]:
        return [command for command in self.commands if command.name in names]

    def acknowledged(self) -> set[str]:
        """The ids that somebody asked to acknowledge."""
        return {entry_id for command in self.named("XACK") for entry_id in entry_ids(command)}

    def taken_up(self) -> list[Run]:
        """Each entry once, when a janitor first claimed it, or acknowledged it in a script without a claim.

        A consumer does neither: it reads, and acknowledges by a command of its own.
        """
        seen: set[str] = set()
        runs = []
        for command in self.named("XACK", "XCLAIM"):
            new = set(entry_ids(command)) - seen
            if new and (command.by_script or command.name == "XCLAIM"):
                seen |= new
                runs.append(Run(command.at_us / 1000, command.at_us / 1000, len(new)))
        return runs


def entry_ids(command: Command) -> list[str]:
    """Those that an XACK or XCLAIM names behind its stream, group and consumer."""
    return [word for word in command.words[3:] if _ENTRY_ID.fullmatch(word)]


def parsed(line: str) -> Command | None:
    """One line of MONITOR; None if it names no key."""
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
    connection.socket_timeout = None  # a server that nobody uses has nothing to tell for as long as that lasts
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
