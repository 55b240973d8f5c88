"""How the demo's programs talk: each a process of its own that tells facts, a JSON object a line."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import Any

SERVER_VARIABLE = "DEMO_REDIS_URL"


def tell(**facts: Any) -> None:
    """Write one line of facts to whoever started this program."""
    print(json.dumps(facts, default=str), file=sys.__stdout__, flush=True)


def server_url() -> str:
    """The server that this program is to use. Never REDIS_HOST: somebody may have production exported."""
    url = os.environ.get(SERVER_VARIABLE, "")
    if not url:
        sys.exit(f"{SERVER_VARIABLE} is not set; `python -m demo.redis` runs a server")
    return url


class Stop:
    """Whether it is time to end: a signal asked for it, or the process that started this one is gone."""

    def __init__(self) -> None:
        self._starter = os.getppid()
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked or os.getppid() != self._starter
