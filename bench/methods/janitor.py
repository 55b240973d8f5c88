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
    return await _prepare(target, SETTLE_MODE="script")


async def prepare_gather(target: Target) -> Settle:
    return await _prepare(target, SETTLE_MODE="gather")


async def prepare_script_limited(target: Target) -> Settle:
    return await _prepare(target, SETTLE_MODE="script", RECOVERY_RATE_LIMIT=RATE_LIMIT)


async def prepare_gather_limited(target: Target) -> Settle:
    return await _prepare(target, SETTLE_MODE="gather", RECOVERY_RATE_LIMIT=RATE_LIMIT)


async def prepare_gather_unconfirmed(target: Target) -> Settle:
    return await _prepare(target, SETTLE_MODE="gather", ACK_REPLICAS="0")


async def prepare_requeue_script(target: Target) -> Settle:
    return await _prepare(target, SETTLE_MODE="script", ACTION="requeue")


async def prepare_requeue_gather(target: Target) -> Settle:
    return await _prepare(target, SETTLE_MODE="gather", ACTION="requeue")


async def prepare_script_one_tick(target: Target) -> Settle:
    os.environ["SETTLE_MODE"] = "script"
    return await prepare_tick(target)


async def prepare_gather_one_tick(target: Target) -> Settle:
    os.environ["SETTLE_MODE"] = "gather"
    return await prepare_tick(target)


async def _prepare(target: Target, **settings: str) -> Settle:
    os.environ.update(settings)
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
