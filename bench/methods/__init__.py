"""The methods that are compared: one module each, imported only in the process that runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from bench.target import Target

Settle = Callable[[], Awaitable[None]]
Prepare = Callable[[Target], Awaitable[Settle]]
"""Gets a method ready on a group that is still empty; what it returns settles all that is pending."""


@dataclass(frozen=True, slots=True)
class Method:
    label: str
    module: str
    function: str = "prepare"

    @property
    def prepare(self) -> Prepare:
        return cast(Prepare, getattr(import_module(f"bench.methods.{self.module}"), self.function))


COMPARED = {
    "limit": Method("the limit: the same commands alone", "limit"),
    "script": Method("this janitor, script", "janitor", "prepare_script"),
    "gather": Method("this janitor, gather", "janitor", "prepare_gather"),
    "task-per-entry": Method("one asyncio task per entry", "task_per_entry"),
    "sync": Method("a sync loop", "sync_loop"),
    "faststream": Method("FastStream, claiming subscriber", "faststream_subscriber"),
}

LIMITED = {
    "script-limited": Method(
        "this janitor, script, under a rate limit that does not bite", "janitor", "prepare_script_limited"
    ),
    "gather-limited": Method(
        "this janitor, gather, under a rate limit that does not bite", "janitor", "prepare_gather_limited"
    ),
}
"""Beside the same without the limit: what the limit costs."""

METHODS = {**COMPARED, **LIMITED, "tick": Method("one tick of this janitor", "janitor", "prepare_tick")}
