"""Telling others which hashes were written: one message a batch on RECOVERED_CHANNEL, after the batch's acknowledgement.

A message is lost where nobody listens, where the janitor ends before it is sent, or where the server refuses it: who has to
know everything reads the hashes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from shared.settings import StreamSettings


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
