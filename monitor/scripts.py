"""The Lua scripts: their texts, and one way to run them that survives a restart of the server.

Scripts are neither replicated nor kept over a restart (redis.io/docs/interact/programmability/eval-intro), so each run by
SHA-1 may be answered by NOSCRIPT; then the text is loaded and the run repeated, which is safe: nothing ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import NoScriptError

from shared.redis_client import Argument, Command, RedisLink, Reply

_FOLDER = Path(__file__).parent
_MAIN = "-- main"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 that names it to EVALSHA."""

    text: str
    sha1: str

    @classmethod
    def of(cls, text: str) -> Script:
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def command(self, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
        """The EVALSHA that runs it; keys first, since a cluster routes by them."""
        return ("EVALSHA", self.sha1, len(keys), *keys, *arguments)

    async def run(self, link: RedisLink, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Reply:
        """Its reply; loads it first where the server does not have it."""
        command = self.command(keys, arguments)
        try:
            return await link.call(*command)
        except NoScriptError:
            await self.load(link)
            return await link.call(*command)

    async def load(self, link: RedisLink) -> None:
        await link.load_script(self.text)

    async def written(self, link: RedisLink, commands: Sequence[Command], replicas: int | None) -> list[Reply]:
        """``link.written`` for commands that may run this script; loads it where a server does not have it."""
        replies = await link.written(commands, replicas)
        again = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:  # only these: in a cluster the others ran, and a second run may answer otherwise
            await self.load(link)
            for at, reply in zip(again, await link.written([commands[at] for at in again], replicas), strict=True):
                replies[at] = reply
        return replies


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def store_script() -> Script:
    """store.lua: one entry into one hash; any Redis from 6.0."""
    return Script.of(_text("store.lua"))


def settle_script() -> Script:
    """settle.lua behind what it shares with others; the shebang needs Redis 7.0 and has full or read-only servers refuse a
    run before it starts."""
    shared = _text("store.lua").split(_MAIN)[0] + _text("rate.lua")
    return Script.of("#!lua\n" + shared + _text("settle.lua"))


def claim_script() -> Script:
    """claim.lua behind rate.lua: claim what the rate limit grants; any Redis from 6.0."""
    return Script.of(_text("rate.lua") + _text("claim.lua"))


def touch_script() -> Script:
    """touch.lua: something for WAIT to confirm."""
    return Script.of(_text("touch.lua"))


def reap_script() -> Script:
    """reap.lua: remove a consumer if it has nothing pending."""
    return Script.of(_text("reap.lua"))


def probe_script() -> Script:
    """probe.lua: may a script do what settle.lua does? Writes nothing; needs Redis 7.0."""
    return Script.of(_text("probe.lua"))


def retention_script() -> Script:
    """retention.lua: trim one slice of what every group has finished with; Redis 6.2."""
    return Script.of(_text("retention.lua"))
