"""Actions: what becomes of an abandoned entry. One file each; the sweep knows them by this protocol only.

To add one: a file here with a class that follows ``Action``, its name in ``ACTIONS``, the rights it needs in
cli/rights.py, what it would do in cli/dry_run.py, a page in docs/actions. A test goes through ``ACTIONS`` and finds what is
missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Final, Protocol, TypeVar

from monitor.batch import ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext

Result = TypeVar("Result")


class Retry(Protocol):
    """Repeats what failed while it may work in a moment, within the sweep's budget."""

    def __call__(self, attempt: Callable[[], Awaitable[Result]], /) -> Awaitable[Result]: ...


class Action(Protocol):
    """What becomes of the abandoned entries of one stream, during one sweep."""

    uses_index: bool
    """Whether the sweep looks after a search index and what it holds."""

    async def settler(self, retry: Retry) -> Settler:
        """How the next batch is settled; the server is asked once where that depends on it.

        Raises:
            JanitorError: the settings want a way that is not to be had here.
        """

    def fall_back(self, refusal: ScriptNotAllowed) -> None:
        """The server refused the settler's way; ``settler`` gives another one from now on.

        Raises:
            JanitorError: the settings allow no other.
        """


ACTIONS: Final = {"store": "StoreAction"}
"""ACTION's value → the class in the file of that name."""


def action_for(context: SweepContext, resume: ResumeState) -> Action:
    """The action that the stream's settings name; only its own file is imported."""
    name = context.settings.action
    action: Action = getattr(import_module(f"monitor.actions.{name}"), ACTIONS[name])(context, resume)
    return action
