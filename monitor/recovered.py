"""Telling others which hashes were written: one message a batch on RECOVERED_CHANNEL, after the batch's acknowledgement.

A message is lost where nobody listens, where the janitor ends before it is sent, or where the server refuses it: who has to
know everything reads the hashes. By script settle.lua sends it, so that keys travel to those only who asked for them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Final

from shared.settings import StreamSettings

END: Final = b"]}"


def publish_command(cluster: bool = False) -> str:
    """In a cluster a message stays in its channel's shard instead of going to every node."""
    return "SPUBLISH" if cluster else "PUBLISH"


def message(settings: StreamSettings, keys: Sequence[bytes]) -> bytes:
    """``{"stream": …, "group": …, "keys": […]}``, JSON in UTF-8; a key that is no UTF-8 is ``{"base64": …}`` there."""
    return beginning(settings) + b",".join(map(_as_json, keys)) + END


def beginning(settings: StreamSettings) -> bytes:
    """What stands before the keys; settle.lua puts them behind it."""
    names = json.dumps({"stream": settings.stream, "group": settings.group}, ensure_ascii=False)
    return f'{names[:-1]}, "keys": ['.encode()


def _as_json(key: bytes) -> bytes:
    try:
        return json.dumps(key.decode(), ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return json.dumps({"base64": base64.b64encode(key).decode()}).encode()
