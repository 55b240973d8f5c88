"""A small proxy on 127.0.0.1 between the janitor and Redis, so that a fault comes at an exact byte or command.

The proxy only carries; a plan says what becomes of the bytes. It runs in the event loop of the sweep that it serves, so
nothing here waits for a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

CLOSE_TIMEOUT_S = 2.0


class Wire:
    """One connection through the proxy. After a cut the server still gets all that was passed on to it, and its end."""

    def __init__(self, client: asyncio.Transport) -> None:
        self.client = client
        self.server: asyncio.Transport | None = None
        self.is_cut = False
        self.server_is_gone = asyncio.Event()

    def to_server(self, data: bytes) -> None:
        if self.server is not None and not self.is_cut:
            self.server.write(data)

    def to_client(self, data: bytes) -> None:
        if not self.is_cut and not self.client.is_closing():
            self.client.write(data)

    def cut(self) -> None:
        """End the connection for both sides; the bytes that were passed on before arrive."""
        if self.is_cut:
            return
        self.is_cut = True
        self.client.close()
        if self.server is None:
            self.server_is_gone.set()
        elif not self.server.is_closing():
            with contextlib.suppress(OSError):
                # Not close(): we go on reading until Redis closes, which is after it ran what it got.
                self.server.write_eof()


class Plan:
    """What becomes of the bytes. This one lets everything pass and counts."""

    def __init__(self) -> None:
        self.requested = 0
        self.replied = 0

    def accepts(self) -> bool:
        """Whether a new connection is let in."""
        return True

    def request(self, wire: Wire, data: bytes) -> None:
        self.requested += len(data)
        wire.to_server(data)

    def reply(self, wire: Wire, data: bytes) -> None:
        self.replied += len(data)
        wire.to_client(data)

    def ended(self, wire: Wire) -> None:
        """The janitor closed this connection, or its process is gone."""
        wire.cut()


class CutAt(Plan):
    """Let ``byte`` bytes of one direction pass, counted over all connections, then cut the connection that carries the next.

    ``for_good``: every other connection is cut as well and no new one is let in.
    """

    def __init__(self, byte: int, of_replies: bool, for_good: bool = False) -> None:
        super().__init__()
        self._left = byte
        self.of_replies = of_replies
        self.for_good = for_good
        self._wires: list[Wire] = []
        self.has_cut = False

    def accepts(self) -> bool:
        return not (self.has_cut and self.for_good)

    def request(self, wire: Wire, data: bytes) -> None:
        self._pass(wire, data, wire.to_server, not self.of_replies)

    def reply(self, wire: Wire, data: bytes) -> None:
        self._pass(wire, data, wire.to_client, self.of_replies)

    def _pass(self, wire: Wire, data: bytes, forward: Callable[[bytes], None], is_counted: bool) -> None:
        self._wires.append(wire)
        if self.has_cut and self.for_good:
            wire.cut()  # let in before, and silent until now
        if self.has_cut or not is_counted or self._left >= len(data):
            self._left -= len(data) if is_counted and not self.has_cut else 0
            forward(data)
            return
        forward(data[: self._left])
        self.has_cut = True
        wire.cut()
        if self.for_good:
            for other in self._wires:
                other.cut()


class Silence(Plan):
    """After ``byte`` request bytes nothing passes any more, and nobody is told.

    ``old_only``: connections made afterwards work, as when a firewall forgot the old ones; else none does: a black hole.
    ``replies_only``: requests still arrive and are carried out.
    """

    def __init__(self, byte: int, old_only: bool, replies_only: bool) -> None:
        super().__init__()
        self._byte = byte
        self._old_only = old_only
        self._replies_only = replies_only
        self._silent: set[Wire] = set()
        self._seen: set[Wire] = set()
        self._has_begun = False

    def request(self, wire: Wire, data: bytes) -> None:
        if wire not in self._seen:
            self._seen.add(wire)
            if self._has_begun and not self._old_only:
                self._silent.add(wire)
        self.requested += len(data)
        if not self._has_begun and self.requested > self._byte:
            self._has_begun = True
            self._silent |= self._seen
        if wire not in self._silent or self._replies_only:
            wire.to_server(data)

    def reply(self, wire: Wire, data: bytes) -> None:
        if wire not in self._silent:
            wire.to_client(data)


class Lag(Plan):
    """A replica's connection to its primary: from ``hold_after(n)`` on it gets ``n`` bytes more and then nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._left: int | None = None

    def hold_after(self, bytes_: int) -> None:
        self._left = bytes_

    def reply(self, wire: Wire, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        wire.to_client(data)


class Latency(Plan):
    """Every reply arrives ``seconds`` late."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def reply(self, wire: Wire, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self._seconds, wire.to_client, data)


class Barrier(Plan):
    """Hold everything at command number ``at`` (from 1, over all connections in the order of arrival) until ``release``.

    Held before the command reaches the server, or ``after_reply``: when the server has carried it out and its reply is here.
    ``matching`` counts only the commands with these names.
    """

    def __init__(self, at: int, after_reply: bool = False, matching: frozenset[bytes] | None = None) -> None:
        super().__init__()
        self.commands: list[bytes] = []
        self.reached = asyncio.Event()
        self._at = at
        self._after_reply = after_reply
        self._matching = matching
        self._is_holding = False
        self._is_released = False
        self._queue: deque[tuple[bool, Wire, bytes]] = deque()
        self._frames: dict[tuple[bool, Wire], Frames] = {}
        self._sent: dict[Wire, deque[int]] = {}

    def request(self, wire: Wire, data: bytes) -> None:
        self._take(False, wire, data)

    def reply(self, wire: Wire, data: bytes) -> None:
        self._take(True, wire, data)

    def release(self) -> None:
        self._is_holding, self._is_released = False, True
        self._pump()

    def ended(self, wire: Wire) -> None:
        self._queue = deque(item for item in self._queue if item[1] is not wire)
        wire.cut()

    def _take(self, is_reply: bool, wire: Wire, data: bytes) -> None:
        frames = self._frames.setdefault((is_reply, wire), Frames())
        self._queue.extend((is_reply, wire, frame) for frame in frames.feed(data))
        self._pump()

    def _pump(self) -> None:
        while self._queue and not self._is_holding:
            is_reply, wire, frame = self._queue[0]
            sent = self._sent.setdefault(wire, deque())
            number = next(iter(sent), 0) if is_reply else self._count(frame)
            if number == self._at and is_reply == self._after_reply and not self._is_released:
                self._is_holding = True
                self.reached.set()
                return
            self._queue.popleft()
            if is_reply:
                if sent:
                    sent.popleft()
                wire.to_client(frame)
            else:
                self.commands.append(_name_of(frame))
                sent.append(number)
                wire.to_server(frame)

    def _count(self, frame: bytes) -> int:
        """The number that this command gets; 0 for one that is not counted."""
        if self._matching is None:
            return len(self.commands) + 1
        if _name_of(frame) not in self._matching:
            return 0
        return 1 + sum(name in self._matching for name in self.commands)


def _name_of(request: bytes) -> bytes:
    """The command's name, in capitals, of a request as clients send it: an array of bulk strings."""
    return request.split(b"\r\n", 3)[2].upper()


class Frames:
    """Cuts a stream of RESP into whole requests or replies (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        frames, at = [], 0
        while (end := _end_of_frame(self._buffer, at)) is not None:
            frames.append(self._buffer[at:end])
            at = end
        self._buffer = self._buffer[at:]
        return frames


def _end_of_frame(data: bytes, at: int) -> int | None:
    """Where the frame that begins at ``at`` ends; None if it is not all there."""
    waiting = 1
    while waiting:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind, rest = data[at : at + 1], data[at + 1 : line_end]
        at = line_end + 2
        waiting -= 1
        if kind in b"$=!":
            if int(rest) >= 0:
                at += int(rest) + 2
        elif kind in b"*~>":
            waiting += max(int(rest), 0)
        elif kind in b"%":
            waiting += 2 * int(rest)
        elif kind in b"|":
            waiting += 2 * int(rest) + 1
        if at > len(data):
            return None
    return at


class _ClientSide(asyncio.Protocol):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = Wire(transport)
        if not self._proxy.plan.accepts():
            transport.abort()
            return
        transport.pause_reading()
        self._proxy.join(self._wire)

    def data_received(self, data: bytes) -> None:
        self._proxy.plan.request(self._wire, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.plan.ended(self._wire)


class _ServerSide(asyncio.Protocol):
    def __init__(self, proxy: Proxy, wire: Wire) -> None:
        self._proxy, self._wire = proxy, wire

    def data_received(self, data: bytes) -> None:
        self._proxy.plan.reply(self._wire, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._wire.server_is_gone.set()
        self._wire.cut()


class Proxy:
    """Carries connections to ``server_port`` by ``plan``. A context manager; ``port`` is where to connect."""

    def __init__(self, server_port: int, plan: Plan) -> None:
        self.plan = plan
        self.port = 0
        self._server_port = server_port
        self._wires: list[Wire] = []
        self._joining: set[asyncio.Task[None]] = set()

    def join(self, wire: Wire) -> None:
        task = asyncio.ensure_future(self._join(wire))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(lambda: _ServerSide(self, wire), "127.0.0.1", self._server_port)
        except OSError:
            wire.server_is_gone.set()
            wire.cut()
            return
        wire.server = transport
        self._wires.append(wire)
        if wire.is_cut or wire.client.is_closing():
            transport.abort()
            return
        wire.client.resume_reading()

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.get_running_loop().create_server(lambda: _ClientSide(self), "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections and return when the server has closed them too, having run what it got."""
        self._listener.close()
        for task in list(self._joining):
            task.cancel()
        for wire in self._wires:
            wire.cut()
        for wire in self._wires:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wire.server_is_gone.wait(), CLOSE_TIMEOUT_S)
            if wire.server is not None:
                wire.server.abort()
