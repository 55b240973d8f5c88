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
    setup: str = "one_stream"
    """Where it works; one of bench.setups."""

    @property
    def prepare(self) -> Prepare:
        return cast(Prepare, getattr(import_module(f"bench.methods.{self.module}"), self.function))


COMPARED = {
    "limit": Method("the limit: the same commands alone", "limit", setup="one_stream_and_the_limits_file"),
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

SPREAD_OVER = {
    f"{mode}-{name}": Method(f"{mode}, {label}, one tick", "janitor", f"prepare_{mode}_one_tick", setup)
    for mode in ("script", "gather")
    for name, label, setup in (
        ("one-stream", "one stream", "one_stream"),
        ("eight-streams", "eight streams", "eight_streams"),
    )
}
"""The same entries in one stream and in eight: what it costs to sweep many."""

CLUSTERED = {
    "server-script": Method("one server, script", "janitor", "prepare_script"),
    "server-gather": Method("one server, gather", "janitor", "prepare_gather"),
    "cluster-script-tag": Method("cluster, script, one hash tag", "janitor", "prepare_script", "cluster_one_tag"),
    "cluster-script-tags": Method(
        "cluster, script, three partitions, a hash tag in each shard", "janitor", "prepare_script", "cluster_tag_each"
    ),
    "cluster-gather": Method("cluster, gather, ACK_REPLICAS auto (1)", "janitor", "prepare_gather", "cluster"),
    "cluster-gather-0": Method("cluster, gather, ACK_REPLICAS=0", "janitor", "prepare_gather_unconfirmed", "cluster"),
}
"""The same entries on one server and in a cluster of three masters with a replica each."""

REQUEUEING = {
    "requeue-limit": Method(
        "the limit: the same commands alone", "limit", setup="one_stream_and_the_limits_file_of_requeue"
    ),
    "requeue-script": Method("ACTION=requeue, script", "janitor", "prepare_requeue_script"),
    "requeue-gather": Method("ACTION=requeue, gather", "janitor", "prepare_requeue_gather"),
}
"""The same entries added to the same stream again; what they compare with is XADD instead of HSET."""

METHODS = {
    **COMPARED,
    **LIMITED,
    **SPREAD_OVER,
    **CLUSTERED,
    **REQUEUEING,
    "tick": Method("one tick of this janitor", "janitor", "prepare_tick"),
}
