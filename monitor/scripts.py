"""The Lua scripts: their texts, their arguments by name, and one way to run them that survives a restart of the server.

Scripts are neither replicated nor kept over a restart (redis.io/docs/interact/programmability/eval-intro), so each run by
SHA-1 may be answered by NOSCRIPT; then the text is loaded and the run repeated, which is safe: nothing ran.

A script's header declares what it is given, one line each, in the order of KEYS and ARGV::

    -- @key stream                 the stream
    -- @arg min_idle_ms (number)   entries idle for at least this long
    -- @rest ids_at                the entry ids

From these lines the locals of those names are put before all else, so that a new argument is one more line there, and no
other place knows a position. ``(number)`` and ``(flag)`` convert; ``@rest`` is the index of the first of the arguments
that follow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.exceptions import NoScriptError

from shared.redis_client import Argument, Command, RedisLink, Reply

_FOLDER = Path(__file__).parent
_MAIN = "-- main"
_DECLARED: Final = re.compile(r"^-- @(key|arg|rest) (\w+)(?: \((number|flag)\))?", re.MULTILINE)
_CONVERTED: Final = {"": "ARGV[{}]", "number": "tonumber(ARGV[{}])", "flag": "ARGV[{}] == '1'"}


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, the SHA-1 that names it to EVALSHA, and the names of its arguments, if it declares them."""

    text: str
    sha1: str
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, arguments: tuple[str, ...] = ()) -> Script:
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), arguments)

    @classmethod
    def declared(cls, name: str, before: str = "", shebang: str = "") -> Script:
        """The script in the file ``name``, behind the locals that its header declares and ``before``, which may use them."""
        text = _text(name)
        declared = _DECLARED.findall(text)
        arguments = tuple(argument for kind, argument, _ in declared if kind == "arg")
        return cls.of(f"{shebang}{_locals(declared)}{before}{text}", arguments)

    def named(self, **values: Argument | bool) -> tuple[Argument, ...]:
        """The values in the order of ARGV.

        Raises:
            TypeError: one is missing, or is no argument of this script.
        """
        if values.keys() != set(self.arguments):
            raise TypeError(f"expected the arguments {', '.join(self.arguments)}; got {', '.join(values)}")
        return tuple(
            int(value) if (value := values[name]) is True or value is False else value for name in self.arguments
        )

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

    async def write_and_wait(self, link: RedisLink, commands: Sequence[Command], replicas: int | None) -> list[Reply]:
        """``link.write_and_wait`` for commands that may run this script; loads it where a server does not have it."""
        replies = await link.write_and_wait(commands, replicas)
        again = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:  # only these: in a cluster the others ran, and a second run may answer otherwise
            await self.load(link)
            for at, reply in zip(
                again, await link.write_and_wait([commands[at] for at in again], replicas), strict=True
            ):
                replies[at] = reply
        return replies


def _locals(declared: Sequence[tuple[str, str, str]]) -> str:
    keys = [name for kind, name, _ in declared if kind == "key"]
    rest = [name for kind, name, _ in declared if kind == "rest"]
    arguments = [(name, conversion) for kind, name, conversion in declared if kind == "arg"]
    lines = [f"local {name} = KEYS[{at}]" for at, name in enumerate(keys, 1)]
    lines += [f"local {name} = {_CONVERTED[how].format(at)}" for at, (name, how) in enumerate(arguments, 1)]
    lines += [f"local {name} = {len(arguments) + 1}" for name in rest]
    return "\n".join((*lines, ""))


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _shared(*names: str) -> str:
    """The parts of these files that others use: all that stands before their main part."""
    return "".join(_text(name).split(_MAIN)[0] for name in names)


def store_script() -> Script:
    """store.lua: one entry into one hash; any Redis from 6.0."""
    return Script.of(_text("store.lua"))


def settle_script() -> Script:
    """settle.lua behind what it shares with others; the shebang needs Redis 7.0 and has full or read-only servers refuse a
    run before it starts."""
    before = _shared("store.lua", "document.lua", "rate.lua", "entry_key.lua", "bounded.lua")
    return Script.declared("settle.lua", before, "#!lua\n")


def requeue_script() -> Script:
    """requeue.lua behind what it shares with others; needs Redis 7.0."""
    return Script.declared("requeue.lua", _shared("rate.lua", "bounded.lua"), "#!lua\n")


def requeue_probe_script() -> Script:
    """requeue_probe.lua: may a script do what requeue.lua does? Writes nothing; needs Redis 7.0."""
    return Script.of(_text("requeue_probe.lua"))


def claim_script() -> Script:
    """claim.lua behind rate.lua: claim what the rate limit grants; any Redis from 6.0."""
    return Script.declared("claim.lua", _shared("rate.lua"))


def gone_script() -> Script:
    """gone.lua: take off the list what the stream does not have; any Redis from 6.0."""
    return Script.declared("gone.lua")


def document_script() -> Script:
    """document.lua: one document under its key, with its expiry; any Redis from 6.0 with RedisJSON."""
    return Script.of(_shared("store.lua") + _text("document.lua"))


def touch_key_script() -> Script:
    """touch_key.lua: the same as touch.lua, for a key of any type."""
    return Script.of(_text("touch_key.lua"))


def touch_script() -> Script:
    """touch.lua: something for WAIT to confirm."""
    return Script.of(_text("touch.lua"))


def reap_script() -> Script:
    """reap.lua: remove consumers if they have nothing pending, a slice of them; any Redis from 6.0."""
    return Script.declared("reap.lua")


def probe_script(writes: str = "HSET") -> Script:
    """probe.lua: may a script do what settle.lua does? Writes nothing; needs Redis 7.0. ``writes``: the commands that store."""
    return Script.of(_text("probe.lua").replace("WRITES = 'HSET'", f"WRITES = '{writes}'"))


def attempt_script() -> Script:
    """attempt.lua behind rate.lua: claim for an attempt of the user's code; Redis 6.2 and later."""
    return Script.declared("attempt.lua", _shared("rate.lua"))


def fence_script() -> Script:
    """The public package's fence.lua, of which there is one copy: act only on what is still ours; Redis 6.2 and later."""
    from stream_janitor.fence import script_text

    return Script.of(script_text())


def retention_script() -> Script:
    """retention.lua: trim one slice of what every group has finished with; Redis 6.2."""
    return Script.declared("retention.lua")
