"""A server of the user's own for the demo: DEMO_REDIS_URL names it, and it has to be empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote, urlsplit

import redis

from demo.redis import NoServer
from demo.wire import SERVER_VARIABLE
from monitor.rate import rate_key
from shared.settings import StreamSettings


@dataclass(frozen=True, slots=True)
class OutsideServer:
    """A server that runs already. `url` may hold a password: it is never printed, `address` is."""

    url: str
    host: str
    port: int
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def outside_server(url: str) -> OutsideServer:
    """The server that the URL names. Raises NoServer if it cannot be used: see `refuse_unless_usable`."""
    server = _parsed(url)
    try:
        with redis.Redis.from_url(url, protocol=2, socket_connect_timeout=5) as client:
            refuse_unless_usable(client)
    except redis.RedisError as error:
        raise NoServer(f"{SERVER_VARIABLE}: {server.address}: {type(error).__name__}: {error}") from None
    return server


def refuse_unless_usable(client: redis.Redis) -> None:
    """Raises NoServer unless the server can search, holds no key and has no index."""
    try:
        indexes = _indexes(client)
    except redis.ResponseError:
        raise NoServer(f"{SERVER_VARIABLE}: this server cannot search; `redis:8` can") from None
    keys = client.dbsize()
    if keys or indexes:
        raise NoServer(
            f"{SERVER_VARIABLE}: this server is not empty ({keys:,} keys, {len(indexes)} indexes); "
            "the demo writes to an empty one only"
        )


def _indexes(client: redis.Redis) -> list[bytes]:
    return cast(list[bytes], client.execute_command("FT._LIST"))  # type: ignore[no-untyped-call]


def clean(server: OutsideServer, settings: StreamSettings) -> None:
    """Remove what the demo wrote to a server that was empty before, so that it can be used again."""
    with redis.Redis.from_url(server.url, protocol=2) as client:
        if settings.index_name.encode() in _indexes(client):
            client.execute_command("FT.DROPINDEX", settings.index_name)
        for start in (settings.hash_prefix, settings.stream):
            for key in client.scan_iter(match=start + "*", count=1000):
                client.unlink(key)
        client.unlink(rate_key(settings))


def _parsed(url: str) -> OutsideServer:
    parts = urlsplit(url)
    try:
        port = parts.port or 6379
    except ValueError:
        raise NoServer(f"{SERVER_VARIABLE}: not a port") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.path not in ("", "/", "/0"):
        # Not quoted: there may be a password in it.
        raise NoServer(f"{SERVER_VARIABLE}: expected redis://host:port or rediss://host:port, database 0")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    environment = {"REDIS_HOST": f"{host}:{port}", "REDIS_TLS": str(parts.scheme == "rediss").lower()}
    if parts.username:
        environment["REDIS_USERNAME"] = unquote(parts.username)
    if parts.password:
        environment["REDIS_PASSWORD"] = unquote(parts.password)
    return OutsideServer(url, parts.hostname, port, environment)
