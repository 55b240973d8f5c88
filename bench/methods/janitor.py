"""Ours: the real timer function with its default settings, tick after tick until nothing is pending.

One tick has a budget of 15 s; the pause until the next one is not waited for. The first tick, on an empty
group, is the warm-up: imports and connections are the cold start's business.
"""

from __future__ import annotations

import os

from bench.methods import Settle
from bench.target import Target

RATE_LIMIT = "1000000"
"""Entries a second: more than any server settles."""


async def prepare_tick(target: Target) -> Settle:
    """One tick each time, whatever it finds."""
    os.environ.update(target.settings)
    from azure.functions.timer import TimerRequest

    import function_app

    async def tick() -> None:
        await function_app.monitor(TimerRequest())

    await tick()
    return tick


async def prepare_script(target: Target) -> Settle:
    return await _prepare(target, "script")


async def prepare_gather(target: Target) -> Settle:
    return await _prepare(target, "gather")


async def prepare_script_limited(target: Target) -> Settle:
    return await _prepare(target, "script", RATE_LIMIT)


async def prepare_gather_limited(target: Target) -> Settle:
    return await _prepare(target, "gather", RATE_LIMIT)


async def _prepare(target: Target, mode: str, rate_limit: str = "0") -> Settle:
    os.environ |= {"SETTLE_MODE": mode, "RECOVERY_RATE_LIMIT": rate_limit}
    tick = await prepare_tick(target)

    async def settle() -> None:
        left = target.pending()
        while left:
            before = left
            await tick()
            left = target.pending()
            if left == before:
                raise RuntimeError(f"a tick settled nothing of {left} pending entries")

    return settle
