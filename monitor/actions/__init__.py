"""Actions: what becomes of an abandoned entry. One file each; the sweep knows them by this protocol only.

To add one: a file here with a class that follows ``Action``, its name in ``ACTIONS``, the rights it needs in
cli/rights.py, what it would do in forecast.py, a page in docs/actions. A test goes through ``ACTIONS`` and finds what is
missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

from monitor.batch import ScriptNotAllowed, Settler
from monitor.context import ResumeState, SweepContext
from monitor.settle_mode import SettleMode
from shared.errors import SettingsError
from shared.redis_client import RedisLink
from shared.settings import StreamSettings

if TYPE_CHECKING:
    from monitor.observation import Observation
    from monitor.opening import Opening
    from monitor.sweep_state import SweepState

Result = TypeVar("Result")


class Retry(Protocol):
    """Repeats what failed while it may work in a moment, within the sweep's budget."""

    def __call__(self, attempt: Callable[[], Awaitable[Result]], /) -> Awaitable[Result]: ...


class Action(Protocol):
    """What becomes of the abandoned entries of one stream, during one sweep."""

    def __init__(self, context: SweepContext, resume: ResumeState) -> None: ...

    uses_index: bool
    """Whether the sweep looks after a search index and what it holds."""
    mixes_thresholds: bool
    """Whether a batch may have entries of any delivery count, each of which is claimed by its own threshold."""

    @classmethod
    async def mode_of(cls, link: RedisLink, settings: StreamSettings) -> SettleMode:
        """By which way a stream's entries are settled, as far as asking tells; writes nothing.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
        """

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


@runtime_checkable
class Observer(Protocol):
    """An action that only looks."""

    async def look(self, opening: Opening, state: SweepState, /) -> Observation: ...


ACTIONS: Final = {
    "store": "StoreAction",
    "requeue": "RequeueAction",
    "handle": "HandleAction",
    "dead_letter": "DeadLetterAction",
    "observe": "ObserveAction",
}
"""ACTION's value → the class in the file of that name."""


def action_class(settings: StreamSettings) -> type[Action]:
    """The class of the action that the stream's settings name; only its own file is imported."""
    name = settings.action
    if name not in ACTIONS:
        raise SettingsError([f"ACTION: {name} is not there yet; there are {', '.join(ACTIONS)}"])
    found: type[Action] = getattr(import_module(f"monitor.actions.{name}"), ACTIONS[name])
    return found


def action_for(context: SweepContext, resume: ResumeState) -> Action:
    """The action of a sweep that begins."""
    return action_class(context.settings)(context, resume)
