"""Files of commands, made before anything is measured: those that seed a server, and those of the limit."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import tweets
from bench.wire import LAST_REPLY, connect, encode, encode_words, stream_file
from monitor.requeued import ORIGINAL_ENTRY_ID, REQUEUE_COUNT

STREAM, GROUP, PREFIX = b"tweets_stream", b"redisearch_app_group", b"tweet:"
MIN_IDLE_S = 600
ABANDONED_FOR_MS = 3_600_000
PROCESSORS = (b"processor-1", b"processor-2", b"processor-3")
LIMIT_CONSUMER = b"limit"
PAGE, CLAIM = 1_000, 500


class Seed(enum.Enum):
    """What the pending entries look like that a server is seeded with."""

    ABANDONED = "old ids, idle for an hour"
    IN_FLIGHT = "ids made by the server, delivered just now"
    CATCHING_UP = "old ids, delivered just now"


class PreparedFiles:
    """Writes each file once, into a folder that the caller owns; a million entries take some 300 MB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seed(self, port: int, kind: Seed, entries: int, first: int = 0, stream: bytes = STREAM) -> None:
        """Let the server's stream hold that many entries, delivered to three processors and never acknowledged.

        ``first``: the number of the first one's tweet.
        """
        path = self._folder / f"seed-{kind.name.lower()}-{stream.decode()}-{first}-{entries}"
        commands = _seed_commands(kind, range(first, first + entries), stream)
        with connect(port) as connection:
            stream_file(connection, self._written(path, commands))

    def limit(self, entries: int) -> Path:
        """The commands that settle abandoned entries, and nothing else."""
        return self._written(self._folder / f"limit-{entries}", _limit_commands(entries, _store))

    def requeue_limit(self, entries: int) -> Path:
        """The commands that requeue abandoned entries, and nothing else."""
        return self._written(self._folder / f"requeue-limit-{entries}", _limit_commands(entries, _add_again))

    def _written(self, path: Path, commands: Iterator[bytes]) -> Path:
        if not path.exists():
            with path.open("wb") as file:
                file.writelines(commands)
                file.write(encode(b"ECHO", LAST_REPLY))
        return path


def _chunks(numbers: range, size: int) -> Iterator[range]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _seed_commands(kind: Seed, numbers: range, stream: bytes) -> Iterator[bytes]:
    yield encode(b"CLIENT", b"REPLY", b"OFF")
    for position, chunk in enumerate(_chunks(numbers, PAGE)):
        processor = PROCESSORS[position % len(PROCESSORS)]
        yield b"".join(_add(number, kind, stream) for number in chunk)
        yield encode(b"XREADGROUP", b"GROUP", GROUP, processor, b"COUNT", b"%d" % PAGE, b"STREAMS", stream, b">")
        if kind is Seed.ABANDONED:
            yield _abandon(chunk, processor, stream)
    yield encode(b"CLIENT", b"REPLY", b"ON")


def _add(number: int, kind: Seed, stream: bytes) -> bytes:
    name = b"*" if kind is Seed.IN_FLIGHT else tweets.entry_id(number)
    return b"*13\r\n" + encode_words(b"XADD", stream, name) + _fields(number)


def _fields(number: int) -> bytes:
    return encode_words(b"id", tweets.tweet_id(number)) + tweets.body(number).encoded


def _abandon(chunk: range, processor: bytes, stream: bytes) -> bytes:
    ids = [tweets.entry_id(number) for number in chunk]
    idle = (b"IDLE", b"%d" % ABANDONED_FOR_MS, b"RETRYCOUNT", b"1", b"JUSTID")
    return encode(b"XCLAIM", stream, GROUP, processor, b"0", *ids, *idle)


def _limit_commands(entries: int, write: Callable[[int], bytes]) -> Iterator[bytes]:
    min_idle = b"%d" % (1_000 * MIN_IDLE_S)
    for page in _chunks(range(entries), PAGE):
        start = b"(" + tweets.entry_id(page.start - 1) if page.start else b"-"
        yield encode(b"XPENDING", STREAM, GROUP, start, b"+", b"%d" % PAGE)
        for first in range(page.start, page.stop, CLAIM):
            numbers = range(first, min(first + CLAIM, page.stop))
            ids = [tweets.entry_id(number) for number in numbers]
            yield encode(b"XCLAIM", STREAM, GROUP, LIMIT_CONSUMER, min_idle, *ids)
            yield b"".join(write(number) for number in numbers)
            yield encode(b"XACK", STREAM, GROUP, *ids)


def _store(number: int) -> bytes:
    return b"*12\r\n" + encode_words(b"HSET", PREFIX + tweets.tweet_id(number)) + _fields(number)


def _add_again(number: int) -> bytes:
    mark = encode_words(ORIGINAL_ENTRY_ID, tweets.entry_id(number), REQUEUE_COUNT, b"1")
    return b"*17\r\n" + encode_words(b"XADD", STREAM, b"*") + _fields(number) + mark
