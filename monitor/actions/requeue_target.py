"""What the target of ACTION=requeue refuses is never an entry's fault: the sweep fails, and nothing is dead-lettered."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.batch import Batch
from shared.errors import JanitorError, RedisRefused
from shared.retry import code_of, to_user_error
from shared.settings import StreamSettings

_MARK = "to add it to the target"
"""How requeue.lua marks what the XADD answered."""


def is_the_targets(error: Exception) -> bool:
    """Whether an error of requeue.lua is that of its XADD."""
    return _MARK in str(error)


def refused_by_target(settings: StreamSettings, error: Exception, ids: Sequence[bytes]) -> Batch:
    """The batch of those ``ids``, none of which could be added: left pending."""
    batch = Batch(len(ids))
    note_refusal(settings, error, ids, batch)
    return batch


def note_refusal(settings: StreamSettings, error: Exception, ids: Sequence[bytes], batch: Batch) -> None:
    batch.server_refusal, batch.refusal = code_of(error), in_words(settings, error)
    batch.refused_by_server += ids


def in_words(settings: StreamSettings, error: Exception) -> JanitorError:
    target = settings.requeue_target
    if code_of(error) == "WRONGTYPE":
        return RedisRefused(f"REQUEUE_TO {target!r} is a key of another type, not a stream: nothing can be requeued")
    if "exhausted" in str(error).lower():
        return RedisRefused(f"{target!r} takes no more entries: its last id is the greatest there is; set REQUEUE_TO")
    return to_user_error(error, f"requeueing to {target}")
