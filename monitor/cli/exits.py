"""The exit codes, and how an error becomes one of them and one line."""

from __future__ import annotations

from redis.exceptions import RedisError

from monitor.opening import no_group
from shared.errors import JanitorError, RedisUnavailable, SettingsError
from shared.retry import to_user_error

FINE = 0
"""A sweep that was not complete, or that met bad entries, is fine too: its report says so."""
FAILED = 1
USAGE = 2
"""Wrong arguments or settings; nothing was sent to Redis."""
UNREACHABLE = 3
BREACHED = 4
"""``check``: a threshold is breached."""
INTERRUPTED = 130
READER_GONE = 141
"""Whoever read our standard output went away (``| head``), as for any program that SIGPIPE ends."""


class UsageProblem(JanitorError):
    """What was asked for does not go with the settings or with the other arguments."""


def code_for(error: BaseException) -> int:
    if isinstance(error, (SettingsError, UsageProblem)):
        return USAGE
    return UNREACHABLE if isinstance(error, RedisUnavailable) else FAILED


def as_ours(error: JanitorError | RedisError, doing: str, stream: str, group: str) -> JanitorError:
    """``error`` as one of ours, with what to do about it."""
    if isinstance(error, JanitorError):
        return error
    text = str(error)
    # XINFO says of a missing stream only that the key is not there.
    if text.startswith("NOGROUP") or "no such key" in text:
        return no_group(stream, group)
    if text.startswith("WRONGTYPE"):
        return JanitorError(f"{stream!r} is a key of another type, not a stream: check STREAM_NAME (while at {doing})")
    return to_user_error(error, doing)
