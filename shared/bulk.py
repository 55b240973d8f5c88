"""Many commands in one write, and all their replies in one parse: what a connection sends and reads for a batch.

redis-py still makes the connection (TLS, login, HELLO, health checks). Its seam is ``parser_class``: the parser that a
connection is made with reads from the connection's stream. Ours reads a batch at a time, where redis-py's reads a reply at a
time, which costs four to seven times the CPU. tests/test_link.py fails where redis-py moves the seam.

A connection on which anything but the expected replies came is of no more use: whoever reads here drops it on any error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError, DataError, TimeoutError

if TYPE_CHECKING:
    import asyncio

MOST_REPLY_BYTES: Final = 128 * 1024 * 1024
"""Of all replies to one batch. What Python makes of them weighs up to forty times as much, if it is lists of lists."""
READ_BYTES: Final = 256 * 1024
MOST_NESTED: Final = 32
"""Redis's own replies are nested eight deep at most (FT.INFO)."""
_NOTHING: Final = object()
_MOST_DIGITS: Final = 19


class ConnectionLost(ConnectionError):
    """The connection ended before all replies were there. What was sent may have run or not."""

    received_bytes = 0
    """Of replies to this batch; 0 where the connection was lost before the first."""


class ReplyMalformed(ConnectionLost):
    """Something came that is no reply, or that nobody asked for. The connection was dropped."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args, status_code="PROTOCOL")


class ReplyTooLarge(ConnectionLost):
    """The replies to one batch are larger than the link takes. The connection was dropped."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args, status_code="TOOLARGE")


class ReplyLate(TimeoutError):
    """Not all replies came in time. What was sent may have run or not. The connection was dropped."""

    received_bytes = 0


class Replies(list[Any]):
    """The replies to one batch, in order; an error that the server answered with stands in its place."""

    received_bytes = 0


def packed(commands: Iterable[Sequence[Any]]) -> tuple[bytes, int]:
    """``commands`` as they are sent, and how many they are.

    Raises:
        redis.exceptions.DataError: an argument that is no bytes, str, int or float. Nothing was sent.
    """
    try:
        pieces = [hiredis.pack_command(tuple(command)) for command in commands]
    except (TypeError, UnicodeEncodeError) as error:
        raise DataError(f"a command cannot be sent ({type(error).__name__})") from None
    return b"".join(pieces), len(pieces)


class BulkParser(BaseParser):
    """Reads a connection's replies; handed to redis-py as ``parser_class``."""

    most_bytes = MOST_REPLY_BYTES

    def __init__(self, socket_read_size: int) -> None:
        self._stream: asyncio.StreamReader | None = None
        self._reader: Any = None
        self._early: list[Any] = []
        self.first_reply: Any = None
        """To the first command on this connection."""
        self.received_bytes = 0
        """In the batch that is under way."""

    # --- what redis-py calls ----------------------------------------------------------------------------------------------

    def on_connect(self, connection: Any) -> None:
        self._stream = connection._reader
        self._reader = hiredis.Reader(protocolError=ReplyMalformed, replyError=self.parse_error, notEnoughData=_NOTHING)
        self._early = []
        self.first_reply = _NOTHING
        self.received_bytes = 0

    def on_disconnect(self) -> None:
        self._stream = self._reader = None
        self._early = []

    async def can_read(self) -> bool:
        return not self.is_quiet

    async def read_response(self, disable_decoding: bool = False, push_request: bool | None = False) -> Any:
        """One reply, for redis-py's own commands (HELLO, AUTH, PING), several of which it may have under way."""
        if not self._early:
            self.received_bytes = 0
            self._early = await self._at_least(1)
        reply = self._early.pop(0)
        if self.first_reply is _NOTHING:
            self.first_reply = reply
        if isinstance(reply, ConnectionError):
            raise reply
        return reply

    # --- what the link calls ----------------------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Whether the connection is open and nothing has come on it that nobody asked for."""
        stream = self._stream
        if stream is None or self._early or self._reader.has_data():
            return False
        # No public way to see what a StreamReader holds without taking it; redis-py looks there too.
        return not stream.at_eof() and not stream._buffer  # type: ignore[attr-defined]

    async def read_batch(self, count: int) -> Replies:
        """The next ``count`` replies, which are all that is under way.

        Raises:
            ConnectionLost: the connection ended, or cannot be used any more (its subclasses say why).
            redis.exceptions.ConnectionError: the server answered that it does not serve this connection (LOADING, NOAUTH).
        """
        self.received_bytes = 0
        replies = await self._at_least(count) if count else Replies()
        # Without a reader: another task closed the connection meanwhile, and all replies were there.
        if len(replies) != count or (self._reader is not None and self._reader.has_data()):
            raise ReplyMalformed("more replies than commands")
        for kind in set(map(type, replies)):
            if issubclass(kind, ConnectionError):
                raise next(reply for reply in replies if isinstance(reply, ConnectionError))
        replies.received_bytes = self.received_bytes
        return replies

    async def _at_least(self, count: int) -> Replies:
        replies = Replies()
        while len(replies) < count:
            if self._stream is None:
                raise ConnectionLost("the connection is closed")
            chunk = await self._stream.read(READ_BYTES)
            if not chunk:
                raise ConnectionLost("the server closed the connection")
            if not self.received_bytes:
                self._check_length(chunk)
            self.received_bytes += len(chunk)
            if self.received_bytes > self.most_bytes:
                raise ReplyTooLarge("the replies are too large")
            self._parse(chunk, replies)
        return replies

    def _parse(self, chunk: bytes, replies: Replies) -> None:
        reader, already = self._reader, len(replies)
        if reader is None:
            raise ConnectionLost("the connection is closed")
        try:
            reader.feed(chunk)
            replies.extend(iter(reader.gets, _NOTHING))
        except ReplyMalformed:
            raise
        except Exception as error:  # noqa: BLE001 - a key that cannot be one, a length that no memory holds, MOVED to nowhere
            raise ReplyMalformed(f"a reply cannot be read ({type(error).__name__})") from None
        _check(replies if not already else replies[already:])

    def _check_length(self, chunk: bytes) -> None:
        """Refuse what declares itself too large: a list of two thousand million would be made room for at once."""
        if chunk[:1] not in (b"$", b"*", b"%", b"~", b">", b"="):
            return
        digits = chunk[1 : chunk.find(b"\r", 1, _MOST_DIGITS + 3)]
        if digits.isdigit() and int(digits) > self.most_bytes:
            raise ReplyTooLarge("a reply declares itself too large")


def _check(replies: Sequence[Any]) -> None:
    """Look at the kinds of replies, not at each one: there are few."""
    kinds = set(map(type, replies))
    if hiredis.PushNotification in kinds:
        raise ReplyMalformed("a push that nobody subscribed to")
    if list in kinds:
        _check_nesting(replies)


def _check_nesting(replies: Sequence[Any]) -> None:
    for reply in replies:
        depth = 0
        while type(reply) is list and reply:
            reply, depth = reply[0], depth + 1
            if depth > MOST_NESTED:
                raise ReplyMalformed("a reply is nested too deep")
