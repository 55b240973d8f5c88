"""Telling others which hashes were written: one message a batch on RECOVERED_CHANNEL, after the batch's acknowledgement.

A message is lost where nobody listens, where the janitor ends before it is sent, or where the server refuses it: who has to
know everything reads the hashes.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Sequence

from redis.exceptions import RedisError

from shared.errors import JanitorError
from shared.redis_client import RedisLink
from shared.retry import code_of
from shared.settings import StreamSettings

logger = logging.getLogger("monitor")


class Publisher:
    """Publishes one sweep's recovered keys. By then everything is settled and counted, so nothing can fail."""

    def __init__(self, link: RedisLink, settings: StreamSettings) -> None:
        self._link = link
        self._settings = settings
        self._unpublished: Counter[str] = Counter()

    async def publish(self, keys: Sequence[bytes]) -> None:
        """One message for a batch's ``keys``; none where there are none, or no RECOVERED_CHANNEL."""
        channel = self._settings.recovered_channel
        if keys and channel is not None:
            try:
                await self._link.call(publish_command(self._link.is_cluster), channel, message(self._settings, keys))
            except (RedisError, JanitorError, OSError) as error:
                self._unpublished[code_of(error)] += 1

    def warn_of_unpublished(self) -> None:
        """Say once what RECOVERED_CHANNEL was not told."""
        if self._unpublished:
            codes = ", ".join(f"{count} {code}" for code, count in sorted(self._unpublished.items()))
            logger.warning(
                "%s: RECOVERED_CHANNEL was not told of %d batches (%s); the entries are settled all the same",
                self._settings.label, self._unpublished.total(), codes,
            )  # fmt: skip


def publish_command(cluster: bool) -> str:
    """In a cluster a message stays in its channel's shard instead of going to every node."""
    return "SPUBLISH" if cluster else "PUBLISH"


def message(settings: StreamSettings, keys: Sequence[bytes]) -> bytes:
    """``{"stream": …, "group": …, "keys": […]}``, JSON in UTF-8; a key that is no UTF-8 is ``{"base64": …}`` there."""
    told = {"stream": settings.stream, "group": settings.group, "keys": [_as_json(key) for key in keys]}
    return json.dumps(told, ensure_ascii=False).encode()


def _as_json(key: bytes) -> str | dict[str, str]:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(key).decode()}
