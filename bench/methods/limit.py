"""The limit: the commands that settling needs, made beforehand, streamed by a client that does nothing else.

XPENDING by pages of 1,000, XCLAIM of 500, an HSET each, XACK of 500. No method that sends these commands can
be faster than the server is with them; a round in which the client did not keep the server busy is void.
"""

from __future__ import annotations

from pathlib import Path

from bench.methods import Settle
from bench.target import Target
from bench.wire import connect, stream_file


async def prepare(target: Target) -> Settle:
    assert target.limit_file
    path = Path(target.limit_file)
    connection = connect(target.port)

    async def settle() -> None:
        with connection:
            stream_file(connection, path)

    return settle
