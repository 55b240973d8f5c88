"""What a handler's result means, entry by entry: only None and a mapping can say that anything is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from stream_janitor import Dead, Done, Entry, Retry, Unavailable

LONGEST_REASON: Final = 200
"""Characters of a handler's own words that go into reports and dead letters."""


@dataclass(frozen=True, slots=True)
class Raised:
    """Not done, and the handler did not say why: it raised, or its result says nothing."""

    reason: str
    """The exception's class or the result's type, never a text of theirs: it may quote the entry."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Not known to be done: no result within HANDLER_TIMEOUT_SEC."""

    after_s: float

    @property
    def reason(self) -> str:
        return f"handler timed out after {self.after_s:g} s"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Not done: the handler returned a mapping without this entry."""

    reason: str = "left out of the handler's result"


Verdict: TypeAlias = Done | Retry | Dead | Unavailable | Raised | TimedOut | LeftOut


NAMES: Final[dict[type, str]] = {
    Done: "done",
    Retry: "retry",
    Dead: "dead",
    Unavailable: "unavailable",
    Raised: "raised",
    TimedOut: "timed_out",
    LeftOut: "left_out",
}
"""What telemetry calls a verdict."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One call's: a verdict for each of its entries."""

    by_id: Mapping[str, Verdict]
    duration_s: float

    def counts(self) -> Counter[str]:
        """How many entries there are of each verdict, by its name."""
        return Counter(NAMES[type(verdict)] for verdict in self.by_id.values())


def verdicts_of(result: object, entries: Sequence[Entry]) -> dict[str, Verdict]:
    """What a result that needs no more awaiting says of each entry: ``None`` that all are done, a mapping of each by itself."""
    if isinstance(result, Unavailable):
        return same_for_all(_unavailable(result), entries)
    if result is None:
        return same_for_all(Done(), entries)
    if not isinstance(result, Mapping):
        return same_for_all(_meaningless(result), entries)
    said = {key.decode() if isinstance(key, bytes) else key: value for key, value in result.items()}
    return {
        entry.entry_id: _verdict(said[entry.entry_id]) if entry.entry_id in said else LeftOut() for entry in entries
    }


def verdicts_of_error(error: BaseException, entries: Sequence[Entry]) -> dict[str, Verdict]:
    """What an exception says: that nothing is done; ``Unavailable``, also as all of a group, that no entry is at fault."""
    unavailable = _unavailable_in(error)
    if unavailable is not None:
        return same_for_all(_unavailable(unavailable), entries)
    return same_for_all(Raised(f"handler raised {type(error).__name__}"), entries)


def same_for_all(verdict: Verdict, entries: Sequence[Entry]) -> dict[str, Verdict]:
    return dict.fromkeys((entry.entry_id for entry in entries), verdict)


def _verdict(said: object) -> Verdict:
    if said is Done or isinstance(said, Done):
        return Done()
    if isinstance(said, Unavailable):
        return _unavailable(said)
    if isinstance(said, Retry):
        return Retry(said.after_s, _words(said.reason))
    if isinstance(said, Dead):
        return Dead(_words(said.reason))
    return _meaningless(said)


def _unavailable_in(error: BaseException) -> Unavailable | None:
    """A task group raises what its tasks raised as one group; one of another kind in it makes it an error like any other."""
    if isinstance(error, Unavailable):
        return error
    found = [_unavailable_in(inner) for inner in getattr(error, "exceptions", ()) if isinstance(inner, BaseException)]
    return found[0] if found and None not in found else None


def _unavailable(said: Unavailable) -> Unavailable:
    """Without the traceback, whose frames would keep the entries in memory."""
    return Unavailable(_words(said.reason), said.after_s)


def _meaningless(result: object) -> Raised:
    return Raised(f"handler returned {type(result).__name__}, which does not say what is done")


def _words(reason: object) -> str:
    """A handler's reason on one line that fits into a report."""
    text = "".join(char if char.isprintable() else " " for char in str(reason))
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
