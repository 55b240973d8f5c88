"""Redis commands as bytes, and a client that does nothing but stream a file of them and drop the replies."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

LAST_REPLY = b"the-end-of-the-file"
READ_BYTES = 1 << 20


def encode_words(*words: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def encode(*words: bytes) -> bytes:
    """One command, as the Redis protocol writes it."""
    return b"*%d\r\n%b" % (len(words), encode_words(*words))


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def stream_file(connection: socket.socket, path: Path) -> None:
    """Send the file and return once its last command, `ECHO the-end-of-the-file`, was answered.

    What the replies say is not looked at: whoever calls this has to check the outcome.
    """
    with path.open("rb") as commands:
        sender = threading.Thread(target=connection.sendfile, args=(commands,), daemon=True)
        sender.start()
        _drop_replies_until_last(connection)
        sender.join()


def _drop_replies_until_last(connection: socket.socket) -> None:
    ending = LAST_REPLY + b"\r\n"
    buffer = bytearray(READ_BYTES)
    view = memoryview(buffer)
    tail = b""
    while not tail.endswith(ending):
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the server closed the connection before the last command was answered")
        tail = (tail + bytes(view[max(0, count - len(ending)) : count]))[-len(ending) :]
