"""Every error this project raises, in one tree.

No message here ever holds a password, a hash key, or a field of an entry: settings are named by their variable,
entries by their stream id, Redis errors by their code.
"""

from __future__ import annotations

from collections.abc import Sequence


class JanitorError(Exception):
    """Something that the operator has to know about; its text says what to do."""


class SettingsError(JanitorError):
    """The settings cannot be used. Nothing was sent to Redis. ``problems`` lists every one of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("settings: " + "; ".join(self.problems))


class RedisUnavailable(JanitorError):
    """Redis could not be reached, or stopped answering. What was under way has an unknown outcome; repeating is safe."""


class RedisRefused(JanitorError):
    """Redis answered and will not do it (full, read-only, no right, no group). What it refused did not happen."""


class HandlerUnusable(JanitorError):
    """The user's handler could not be made ready, or hangs in every slot. No entry was touched by that."""


class SweepBroke(JanitorError):
    """Something happened in a sweep that nobody foresaw: a garbled reply, or a fault of the janitor's own.

    Nothing is acknowledged that was not done; what was in flight has an unknown outcome, and repeating is safe.
    """


class TickFailed(JanitorError):
    """At least one stream's sweep ended in an error; its report was logged before this was raised."""
