"""What stands at an address: something that speaks TLS, something that does not; asked where the first connection fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final

from redis.exceptions import ConnectionError, TimeoutError

from shared.retry import is_silent_about_tls

PROBE_S: Final = 2.0
SILENT_S: Final = 1.0
"""A Redis without TLS may take a TLS greeting for a command that is still coming, and say nothing."""


class TlsMismatch(ConnectionError):
    """TLS is on and the server speaks without, or the other way round. Nothing was sent to it but a greeting or a PING."""

    def __init__(self, server_speaks_tls: bool) -> None:
        super().__init__("TLS on one side only", status_code="TLSMISMATCH")
        self.server_speaks_tls = server_speaks_tls


async def connect_first(
    connect: Callable[[], Coroutine[Any, Any, None]], host: str, port: int, tls: bool, timeout_s: float
) -> None:
    """Make the first connection to a server.

    Raises:
        TlsMismatch: the server was asked, as it could not be reached or was silent, and speaks TLS where we do not, or
            the other way round.
    """
    connecting = asyncio.ensure_future(connect())
    try:
        if tls:
            await asyncio.wait((connecting,), timeout=min(SILENT_S, timeout_s / 2))
            if not connecting.done() and await speaks_plain(host, port):
                raise TlsMismatch(server_speaks_tls=False)
        await connecting
    except (ConnectionError, TimeoutError) as error:
        if not is_silent_about_tls(error) or not await _is_mismatch(host, port, tls):
            raise
        mismatch = TlsMismatch(server_speaks_tls=not tls)
    else:
        return
    finally:
        await _ended(connecting)
    raise mismatch


async def _is_mismatch(host: str, port: int, tls: bool) -> bool:
    """Plain first: it answers at once, where a server without TLS leaves a TLS greeting without an answer."""
    is_plain = await speaks_plain(host, port)
    return is_plain if tls else not is_plain and await speaks_tls(host, port)


async def _ended(task: asyncio.Future[None]) -> None:
    """Cancel ``task`` and wait for its end; what it raised is of no interest any more."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()


async def speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake gets through. Nothing is sent over it, so the certificate does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return await _opens(host, port, context) is not None


async def speaks_plain(host: str, port: int) -> bool:
    """Whether something answers PING without TLS, as Redis does even before a login."""
    answer = await _opens(host, port, None, b"PING\r\n")
    return answer is not None and answer[:1] in (b"+", b"-")


async def _opens(host: str, port: int, context: ssl.SSLContext | None, ask: bytes = b"") -> bytes | None:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), PROBE_S)
    except (OSError, asyncio.TimeoutError):
        return None
    try:
        writer.write(ask)
        return await asyncio.wait_for(reader.read(64), PROBE_S) if ask else b""
    except (OSError, asyncio.TimeoutError):
        return b""
    finally:
        writer.transport.abort()
