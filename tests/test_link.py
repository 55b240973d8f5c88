"""The link to one server: batches in one write and one parse, the same replies as redis-py's, and nothing left for the next."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError, DataError, RedisError, TimeoutError

from demo.redis import RedisServer
from shared.bulk import (
    BulkParser,
    ConnectionLost,
    Replies,
    ReplyLate,
    ReplyMalformed,
    ReplyTooLarge,
)
from shared.connection import PlainConnection
from shared.redis_client import Command, Reply, ServerLink
from shared.retry import code_of
from shared.settings import RedisSettings
from tests.conftest import raw_client
from tests.fronts import Front, Passage, _read_command

HELLO_REPLY = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"


def settings_of(port: int, **changes: Any) -> RedisSettings:
    return RedisSettings(**{
        "host": "127.0.0.1", "port": port, "username": None, "password": None, "tls": False, "tls_ca_file": None, **changes,
    })  # fmt: skip


@contextlib.asynccontextmanager
async def linked(port: int, connections: int = 4, timeout_s: float = 5.0, **more: Any) -> AsyncIterator[ServerLink]:
    changes = {name: more.pop(name) for name in ("username", "password", "cluster") if name in more}
    link = ServerLink(settings_of(port, **changes), connections, timeout_s, **more)
    try:
        yield link
    finally:
        await link.close()


# --- the same replies as before ---------------------------------------------------------------------------------------------


COMMANDS: list[Command] = [
    ("PING",), ("ECHO", b"\xff\x00\r\n"), ("SET", "k", 1), ("GET", "k"), ("GET", "none"), ("INCR", "k"), ("SET", "f", 1.5),
    ("GET", "f"), ("HSET", "h", "a", "1", "b", "2"), ("HGETALL", "h"), ("HMGET", "h", "a", "none"), ("TIME",), ("TYPE", "h"),
    ("XADD", "s", "1-1", "a", "1", "a", "2"), ("XADD", "s", "2-1", "b", b"\xfe"), ("XGROUP", "CREATE", "s", "g", "0"),
    ("XGROUP", "CREATE", "s", "g", "0"), ("XREADGROUP", "GROUP", "g", "dead", "STREAMS", "s", ">"),
    ("XPENDING", "s", "g"), ("XPENDING", "s", "g", "-", "+", 10), ("XPENDING", "no", "g"), ("XRANGE", "s", "-", "+"),
    ("XCLAIM", "s", "g", "janitor", 0, "1-1", "JUSTID"), ("XCLAIM", "s", "g", "janitor", 0, "2-1"), ("XACK", "s", "g", "1-1"),
    ("XINFO", "GROUPS", "s"), ("XINFO", "CONSUMERS", "s", "g"), ("XINFO", "STREAM", "none"), ("XINFO", "STREAM", "s", "FULL"),
    ("HSET", "s", "a", "1"), ("LPOP", "none"), ("NO.SUCH", "canary"), ("GET",), ("EVALSHA", "0" * 40, 0), ("CONFIG", "GET", "x*"),
    ("EVAL", "return {1, 'a', {}, redis.error_reply('MY own'), false}", 0), ("EVAL", "return redis.error_reply('OOM no')", 0),
    ("EVAL", "return redis.error_reply('MOVED 7 127.0.0.1:1')", 0), ("EVAL", "return redis.error_reply('ASK 7 127.0.0.1:1')", 0),
    ("EVAL", "return redis.error_reply('CROSSSLOT x')", 0), ("EVAL", "return redis.error_reply('CLUSTERDOWN x')", 0),
    ("EVAL", "return redis.error_reply('TRYAGAIN x')", 0), ("EVAL", "return redis.error_reply('READONLY x')", 0),
    ("EVAL", "return redis.error_reply('MASTERDOWN x')", 0), ("EVAL", "return redis.error_reply('NOREPLICAS x')", 0),
    ("EVAL", "return redis.error_reply('MISCONF x')", 0), ("EVAL", "return redis.error_reply('BUSY x')", 0),
    ("EVAL", "return redis.error_reply('NOGROUP x')", 0), ("EVAL", "return redis.error_reply('MODULE \u00fc')", 0),
    ("ACL", "DRYRUN", "default", "GET", "k"), ("COMMAND", "INFO", "GET"), ("CLIENT", "SETNAME", "a b"), ("WAIT", 0, 10),
    ("SCRIPT", "LOAD", "return 1"), ("FT.INFO", "none"), ("SLOWLOG", "GET"), ("MEMORY", "DOCTOR"), ("DEBUG", "PROTOCOL", "map"),
    ("DEBUG", "PROTOCOL", "set"), ("DEBUG", "PROTOCOL", "double"), ("DEBUG", "PROTOCOL", "bignum"), ("DEBUG", "PROTOCOL", "null"),
    ("DEBUG", "PROTOCOL", "verbatim"), ("DEBUG", "PROTOCOL", "true"), ("DEBUG", "PROTOCOL", "attrib"), ("SUBSTR", "k"),
]  # fmt: skip


async def through_redis_py(port: int, protocol: int) -> list[Reply]:
    client = redis.asyncio.Redis(port=port, protocol=protocol, socket_timeout=None)
    client.response_callbacks.clear()
    pipeline = client.pipeline(transaction=False)
    for command in COMMANDS:
        pipeline.execute_command(*command)
    replies = await pipeline.execute(raise_on_error=False)
    await client.aclose()
    return replies


def described(reply: Reply, nested: bool = False) -> object:
    """Types and all; of errors what decides over them; of numbers inside a reply, many of which are times, the type."""
    if isinstance(reply, Exception):
        status = getattr(reply, "status_code", None)
        more = {name: getattr(reply, name) for name in ("host", "port", "slot_id") if hasattr(reply, name)}
        text = str(reply).split(" Command # ")[0]
        return type(reply), status, code_of(reply), more, text.split(" of pipeline caused error: ")[-1]
    if isinstance(reply, list):
        return [described(one, nested=True) for one in reply]
    if isinstance(reply, dict):
        return {name: described(one, nested=True) for name, one in reply.items()}
    return type(reply), None if nested and isinstance(reply, (int, float)) else reply


@pytest.mark.parametrize("protocol", [2, 3])
async def test_replies_are_those_that_redis_py_gives(own_server: RedisServer, protocol: int) -> None:
    raw = raw_client(own_server)
    raw.execute_command("FLUSHALL")
    before = await through_redis_py(own_server.port, protocol)
    raw.execute_command("FLUSHALL")
    raw.execute_command("SCRIPT", "FLUSH")
    async with linked(own_server.port) as link:
        link.facts.protocol = protocol
        after = await link.pipelined(COMMANDS)
        raw.execute_command("FLUSHALL")
        alone = []
        for command in COMMANDS:
            try:
                alone.append(await link.call(*command))
            except RedisError as error:
                alone.append(error)
    raw.close()
    for replies in (after, alone):
        for command, was, became in zip(COMMANDS, before, replies, strict=True):
            if command in (("TIME",), ("COMMAND", "INFO", "GET"), ("SLOWLOG", "GET")):
                assert type(was) is type(became)
            else:
                assert described(became) == described(was), command


@pytest.mark.parametrize("bad", [None, True, object(), "\ud800"])
async def test_an_argument_that_cannot_be_sent_is_told_before_anything_is_sent(link: ServerLink, bad: Any) -> None:
    with pytest.raises(DataError):
        await link.pipelined([("SET", "canary", "1"), ("ECHO", bad)])
    assert await link.call("GET", "canary") is None


async def test_an_empty_batch_needs_no_connection() -> None:
    async with linked(1) as link:
        assert await link.pipelined([]) == []


async def test_a_batch_is_one_write_and_says_how_many_bytes_its_replies_had(server: RedisServer) -> None:
    class Counting(Passage):
        writes = 0

        async def carry_commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1_000_000):
                self.writes += 1
                writer.write(data)

    async with Counting(server.port) as front, linked(front.port) as link:
        await link.call("PING")
        front.writes = 0
        replies = await link.pipelined([("ECHO", f"{number:04}") for number in range(100)])
        assert front.writes == 1
    assert isinstance(replies, Replies)
    assert replies.received_bytes == 100 * len(b"$4\r\n0000\r\n")


# --- the seam ---------------------------------------------------------------------------------------------------------------


async def test_redis_py_still_has_the_seam_that_the_link_hangs_on(link: ServerLink) -> None:
    """Should this fail, redis-py has moved something: see shared/bulk.py and shared/connection.py."""
    await link.call("PING")
    (connection,) = link._idle
    assert isinstance(connection, PlainConnection)
    assert type(connection._parser) is BulkParser
    assert isinstance(connection._reader, asyncio.StreamReader)
    assert isinstance(connection._writer, asyncio.StreamWriter)
    assert isinstance(connection._reader._buffer, bytearray)  # type: ignore[attr-defined]
    assert connection._parser._stream is connection._reader
    assert connection.is_connected
    assert connection.is_ready
    for name in ("on_connect_check_health", "send_packed_command", "disconnect", "connect", "_connection_arguments"):
        assert callable(getattr(Connection, name)), name
    assert connection.next_health_check > asyncio.get_running_loop().time()
    assert connection._connection_arguments()["limit"] > 65_536
    assert callable(link._client.connection_pool.get_available_connection)


async def test_the_parser_asks_of_its_base_no_more_than_errors(own_server: RedisServer) -> None:
    error = BulkParser.parse_error("OOM no memory")
    assert (type(error).__name__, error.status_code) == ("OutOfMemoryError", "OOM")


# --- hostile and broken streams, at the parser ------------------------------------------------------------------------------


class Fed:
    """A parser over a stream that a test feeds."""

    def __init__(self, most_bytes: int = 1_000_000) -> None:
        self._reader = asyncio.StreamReader()
        self.parser = BulkParser(65_536)
        self.parser.most_bytes = most_bytes
        self.parser.on_connect(self)

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            self._reader.feed_data(part)

    def end(self) -> None:
        self._reader.feed_eof()


BATCH = (
    b"+OK\r\n:1\r\n$5\r\na\r\nbc\r\n*2\r\n$1\r\na\r\n*1\r\n:-3\r\n%1\r\n$1\r\nk\r\n~1\r\n:1\r\n_\r\n,1.5\r\n#t\r\n"
    b"-WRONGTYPE no\r\n*-1\r\n(123456789012345678901234567890\r\n=7\r\ntxt:abc\r\n$0\r\n\r\n"
)
BATCH_COUNT = 13


async def whole() -> Replies:
    fed = Fed()
    fed.feed(BATCH)
    return await fed.parser.read_batch(BATCH_COUNT)


async def test_a_batch_cut_in_two_at_any_byte_is_the_same_batch() -> None:
    wanted = described(await whole())
    for at in range(1, len(BATCH)):
        fed = Fed()
        reading = asyncio.create_task(fed.parser.read_batch(BATCH_COUNT))
        fed.feed(BATCH[:at])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not reading.done()
        fed.feed(BATCH[at:])
        assert described(await reading) == wanted, at
        assert fed.parser.is_quiet


async def test_a_stream_that_ends_at_any_byte_is_a_lost_connection_and_says_how_far_it_got() -> None:
    for at in range(len(BATCH)):
        fed = Fed()
        fed.feed(BATCH[:at])
        fed.end()
        with pytest.raises(ConnectionLost) as lost:
            await fed.parser.read_batch(BATCH_COUNT)
        assert type(lost.value) is ConnectionLost
        assert (code_of(lost.value), fed.parser.received_bytes) == ("CONNECTION", at)


async def test_garbage_is_a_clear_error_whatever_it_is() -> None:
    numbers = random.Random(7)
    letters = b"+-:$*%~>=|(,_#!\r\n0123456789?-. aEO\xff\x15\x16"
    kinds = set()
    for _ in range(5_000):
        fed = Fed(most_bytes=100_000)
        text = bytes(numbers.choice(letters) for _ in range(numbers.randrange(1, 40)))
        at = numbers.randrange(len(BATCH))
        fed.feed(numbers.choice((text, BATCH[:at] + text + BATCH[at:], BATCH[:at] + text)))
        fed.end()
        try:
            await fed.parser.read_batch(BATCH_COUNT)
        except RedisError as error:
            kinds.add((type(error), code_of(error)))
    assert all(issubclass(kind, ConnectionError) for kind, _ in kinds)
    assert (ReplyMalformed, "PROTOCOL") in kinds
    assert (ConnectionLost, "CONNECTION") in kinds


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ReplyMalformed),
        (b"\x15\x03\x01\x00\x02\x02F", ReplyMalformed),
        (b"%1\r\n*1\r\n:1\r\n:1\r\n", ReplyMalformed),  # a key that cannot be one
        (b"-MOVED canary\r\n", ReplyMalformed),
        (b"-ASK\r\n", ReplyMalformed),
        (b":12345678901234567890123\r\n", ReplyMalformed),
        (b"$-7\r\n", ReplyMalformed),
        (b"$9999999999\r\n", ReplyTooLarge),
        (b"*2147483647\r\n", ReplyTooLarge),
        (b"*1\r\n*4294967295\r\n", ReplyMalformed),
        (b"$99999999999999999999999\r\n", ReplyMalformed),
        (b">2\r\n$7\r\nmessage\r\n:1\r\n", ReplyMalformed),
        (b":1\r\n:2\r\n", ReplyMalformed),
        (b":1\r\n$3\r\nab", ReplyMalformed),
        (b"*1\r\n" * 1_000_000 + b":1\r\n", ReplyMalformed),
        (b"*1\r\n" * 1_000_000, ReplyMalformed),
        (b"$1000000\r\n" + b"x" * 1_000_000, ReplyTooLarge),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
async def test_what_is_no_reply_is_a_clear_error(sent: bytes, kind: type[Exception]) -> None:
    fed = Fed(most_bytes=4_100_000 if sent.startswith(b"*1\r\n*1\r\n") else 1_000_000)
    fed.feed(sent)
    fed.end()
    with pytest.raises(ConnectionError) as error:
        await fed.parser.read_batch(1)
    assert type(error.value) is kind
    assert "canary" not in str(error.value)


async def test_an_endless_reply_is_cut_off_at_the_limit() -> None:
    fed = Fed(most_bytes=1_000_000)
    reading = asyncio.create_task(fed.parser.read_batch(1))
    fed.feed(b"*900000\r\n")
    fed_bytes = 0
    while not reading.done():
        fed.feed(b":1\r\n" * 10_000)
        fed_bytes += 40_000
        await asyncio.sleep(0)
    with pytest.raises(ReplyTooLarge):
        await reading
    assert fed_bytes < 3_000_000


# --- hostile servers --------------------------------------------------------------------------------------------------------


class Canned(Front):
    """Logs in like Redis; answers any other command as ``answer`` says: bytes to send, or None to close."""

    def __init__(self, answer: Callable[[list[bytes]], bytes | None], hello: bytes = HELLO_REPLY) -> None:
        super().__init__()
        self._answer, self._hello = answer, hello
        self.seen: list[list[bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            command = await _read_command(reader)
            self.seen.append(command)
            answer: bytes | None = b"+OK\r\n"
            if command[0] == b"HELLO":
                answer = self._hello
            elif command[0] != b"CLIENT":
                answer = self._answer(command)
            if answer is None:
                return
            writer.write(answer)
            await writer.drain()


def echoing(command: list[bytes]) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(command[-1]), command[-1])


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b"?\r\n", ReplyMalformed), (b">1\r\n+push\r\n", ReplyMalformed), (b":1\r\n:2\r\n", ReplyMalformed),
        (b"$9999999999\r\n", ReplyTooLarge), (b"*1\r\n", ReplyLate), (b"", ReplyLate), (None, ConnectionLost),
        (b"%1\r\n*0\r\n:1\r\n", ReplyMalformed), (b"-MOVED x\r\n", ReplyMalformed),
    ],
)  # fmt: skip
async def test_after_a_bad_reply_the_next_command_goes_out_on_a_new_connection(
    bad: bytes | None, kind: type[Exception]
) -> None:
    front = Canned(lambda command: bad if command == [b"BAD"] else echoing(command))
    async with front, linked(front.port, timeout_s=0.5) as link:
        await link.call("ECHO", "first")
        with pytest.raises(RedisError) as error:
            await link.call("BAD")
        assert type(error.value) is kind
        link._timeout_s = 30.0
        assert await link.pipelined([("ECHO", "a"), ("ECHO", "b")]) == [b"a", b"b"]
        assert front.accepted == 2


@pytest.mark.parametrize(
    "hello", [b"?\r\n", b":3\r\n", b"*0\r\n", b"+OK\r\n", b"%1\r\n*0\r\n:1\r\n", b"_\r\n", b"*1\r\n*1\r\n"]
)
@pytest.mark.parametrize("password", [None, "secret"])
async def test_a_login_that_is_answered_with_nonsense_ends_in_a_clear_error_or_none(
    hello: bytes, password: str | None
) -> None:
    async with Canned(echoing, hello) as front, linked(front.port, timeout_s=0.4, password=password) as link:
        for _ in range(2):
            with contextlib.suppress(ConnectionError, TimeoutError):
                assert await link.call("ECHO", "right") == b"right"


async def test_an_endless_reply_ends_within_the_round_trip_and_the_limit() -> None:
    class Endless(Canned):
        declares = 1_000_000

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(RuntimeError):
                await super().serve(reader, writer)
            writer.write(b"*%d\r\n" % self.declares)
            while True:
                writer.write(b"$10\r\n0123456789\r\n" * 1000)
                await writer.drain()

    def endless(command: list[bytes]) -> bytes:
        raise RuntimeError

    async with Endless(endless) as front, linked(front.port, timeout_s=60.0, most_reply_bytes=200_000_000) as link:
        link_with_less = ServerLink(settings_of(front.port), 1, 60.0, most_reply_bytes=2_000_000)
        with pytest.raises(ReplyTooLarge) as error:
            await link_with_less.call("XRANGE")
        assert 2_000_000 < error.value.received_bytes < 3_000_000
        await link_with_less.close()
        front.declares = 100_000_000
        link._timeout_s = 0.3
        began_s = time.monotonic()
        with pytest.raises((ReplyLate, ReplyTooLarge)) as late:
            await link.call("XRANGE")
        assert time.monotonic() - began_s < 20
        assert late.value.received_bytes > 0  # type: ignore[union-attr]


# --- nothing is left for the next -------------------------------------------------------------------------------------------


class NeverDropped(PlainConnection):
    """What must not be: a connection whose batch was cut short goes back as it is."""

    @property
    def is_ready(self) -> bool:
        return bool(self.is_connected)

    async def drop(self) -> None: ...


class Slowly(Passage):
    """Lets replies through while ``hold`` is set; before that only the first bytes of them."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port)
        self.hold, self.held = asyncio.Event(), asyncio.Event()
        self.hold.set()

    async def carry_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            self.held.clear()
            if not self.hold.is_set():
                writer.write(data[:2])
                data = data[2:]
                self.held.set()
                await self.hold.wait()
            writer.write(data)


async def mixed_up(
    link: ServerLink, front: Slowly, cut: Callable[[asyncio.Task[Any]], object], timeout_s: float = 30.0
) -> list[Any]:
    """What callers got that was not theirs, while batches before theirs were cut short, or late after ``timeout_s``."""
    wrong: list[Any] = []
    await link.call("PING")
    for number in range(20):
        front.hold.clear()
        texts = [f"{number}-{part}" for part in range(1 + 49 * (number % 2))]
        link._timeout_s = timeout_s
        begun = asyncio.create_task(link.pipelined([("ECHO", text) for text in texts]))
        held = asyncio.create_task(front.held.wait())
        await asyncio.wait((begun, held), return_when=asyncio.FIRST_COMPLETED)
        cut(begun)
        await asyncio.gather(begun, return_exceptions=True)
        held.cancel()
        link._timeout_s = 30.0
        front.hold.set()
        try:
            got: Any = await link.call("ECHO", f"own-{number}")
        except RedisError as error:
            got = error
        if got != b"own-%d" % number:
            wrong.append(got)
    return wrong


async def test_a_cancelled_batch_leaves_no_reply_to_the_next(server: RedisServer) -> None:
    async with Slowly(server.port) as front, linked(front.port, connections=1) as link:
        assert await mixed_up(link, front, lambda begun: begun.cancel()) == []


async def test_a_late_batch_leaves_no_reply_to_the_next(server: RedisServer) -> None:
    async with Slowly(server.port) as front, linked(front.port, connections=1, timeout_s=30.0) as link:
        assert await mixed_up(link, front, lambda begun: None, timeout_s=0.2) == []


async def test_control_a_link_that_puts_a_cut_connection_back_is_caught(server: RedisServer) -> None:
    async with Slowly(server.port) as front, linked(front.port, connections=1) as link:
        link._connect_by(NeverDropped)
        wrong = await mixed_up(link, front, lambda begun: begun.cancel())
        assert any(isinstance(got, bytes) for got in wrong), wrong
        (connection,) = link._idle
        await PlainConnection.drop(connection)
