"""Fronts: small TCP servers that stand between the janitor and a real Redis, each with one fault of its own.

They live in the test's own event loop and listen on 127.0.0.1, on a port that the system picks.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

CHUNK_BYTES = 65_536


class Front:
    """An async context manager that listens; what it does with a connection is up to its subclass."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.accepted = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def environment(self) -> dict[str, str]:
        """The settings that lead the janitor here."""
        return {"REDIS_HOST": f"127.0.0.1:{self.port}", "REDIS_TLS": "true" if self._tls else "false"}

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.serve(reader, writer)
        finally:
            self._connections.discard(task)
            await _closed(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class BlackHole(Front):
    """Accepts, reads, and never answers."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(CHUNK_BYTES):
            pass


class HangUp(Front):
    """Accepts and closes."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return


class Passage(Front):
    """Lets everything through, in both directions; subclasses spoil one of them."""

    def __init__(self, upstream_port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._upstream_port = upstream_port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        directions = {
            asyncio.create_task(self.carry_commands(reader, upstream_writer)),
            asyncio.create_task(self.carry_replies(upstream_reader, writer)),
        }
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            upstream_writer.close()  # before anything is awaited: a cancellation may come in between
            await asyncio.gather(*directions, return_exceptions=True)
            await _closed(upstream_writer)

    async def carry_commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _carry(reader, writer)

    async def carry_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _carry(reader, writer)


class SilentAfter(Passage):
    """Falls silent for good once that many bytes of replies went through, over all connections; commands still arrive."""

    def __init__(self, upstream_port: int, reply_bytes: int) -> None:
        super().__init__(upstream_port)
        self.left_bytes = reply_bytes

    async def carry_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data[: self.left_bytes])
            self.left_bytes = max(self.left_bytes - len(data), 0)
            await writer.drain()


class Slow(Passage):
    """Every reply is that late."""

    def __init__(self, upstream_port: int, latency_s: float) -> None:
        super().__init__(upstream_port)
        self.latency_s = latency_s

    async def carry_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await asyncio.sleep(self.latency_s)
            writer.write(data)
            await writer.drain()


Command = list[bytes]
Judge = Callable[[Command], "str | None"]


class Judging(Passage):
    """Has ``judge`` look at every command; one that it names an error for is answered with that error and does nothing.

    Upstream gets a PING of the same number in its place, so that replies keep their order and no further right is needed;
    on the way back its reply becomes the error.
    """

    def __init__(self, upstream_port: int, judge: Judge) -> None:
        super().__init__(upstream_port)
        self._judge = judge
        self._errors: list[str] = []
        self.seen: list[Command] = []
        self.refused: list[Command] = []

    async def carry_commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            command = await _read_command(reader)
            self.seen.append(command)
            error = self._judge(command)
            if error is not None:
                self.refused.append(command)
                command = [b"PING", b"refused-%08d" % len(self._errors)]
                self._errors.append(error)
            writer.write(_encoded(command))
            await writer.drain()

    async def carry_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting = b""
        while data := await reader.read(CHUNK_BYTES):
            told = REFUSAL.sub(lambda match: b"-%b\r\n" % self._errors[int(match[1])].encode(), waiting + data)
            waiting = _begun_refusal(told)
            writer.write(told[: len(told) - len(waiting)])
            await writer.drain()


def without_hello(command: Command) -> str | None:
    """A judge: a server or proxy that knows RESP2 only."""
    if command[0].upper() == b"HELLO":
        return "ERR unknown command 'HELLO', with args beginning with: " + " ".join(
            f"'{word.decode()}'" for word in command[1:]
        )
    return None


class Threaded:
    """A front in a thread of its own, for fixtures that outlive a test's event loop."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Front:
        self._thread.start()
        return self._run(self._front.__aenter__())

    def __exit__(self, *_: object) -> None:
        self._run(self._front.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, waiting: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(waiting, self._loop).result(30)


REFUSAL = re.compile(rb"\$16\r\nrefused-(\d{8})\r\n")
_REFUSAL_BYTES, _REFUSAL_BEGINS = 23, b"$16\r\nrefused-"


def _begun_refusal(told: bytes) -> bytes:
    """The end of ``told`` if it may be the beginning of a refusal's reply, the rest of which is still under way."""
    tail = told[-_REFUSAL_BYTES + 1 :]
    begun = tail[tail.rfind(b"$") :] if b"$" in tail else b""
    head = begun[: len(_REFUSAL_BEGINS)]
    return begun if begun and _REFUSAL_BEGINS.startswith(head) else b""


async def _read_command(reader: asyncio.StreamReader) -> Command:
    """One command as clients send it: an array of bulk strings."""
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        length = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def _encoded(command: Command) -> bytes:
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
