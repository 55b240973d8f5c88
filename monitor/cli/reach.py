"""What stands at an address: this machine itself, something that speaks TLS, something that does not."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import Final

PROBE_S: Final = 2.0


def is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
