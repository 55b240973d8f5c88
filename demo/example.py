"""What makes an example: its settings file, what is produced, how the consumers fail, what must hold at the end."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from demo.queries import Query
from shared.settings import Settings, StreamSettings

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from demo.check import Check
    from demo.scene import Scene

FOLDER = Path(__file__).resolve().parent.parent / "examples"

Fields = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry to produce. The producer counts what it produced by `kind`."""

    fields: Mapping[str, str]
    kind: str = ""
    is_named: bool = False
    """The producer tells the entry's id too: the check at the end asks for this very entry."""
    amounts: Mapping[str, int] = field(default_factory=dict)
    """What the producer adds up, by name, over all that it produced."""


Burst = tuple[float, list[Item]]
"""A pause in seconds, and what follows it."""


@dataclass(frozen=True, slots=True)
class Production:
    """What a producer has to go by. The same production makes the same items."""

    seed: int
    rate: float
    """Items a second, on average."""
    is_short: bool = False
    tweets_file: Path | None = None
    lang: str | None = None


def _always(fields: Fields) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Faults:
    """How the three consumers fail. Each gives up on its first entry, so that no run is without a failure."""

    gives_up: float = 0.2
    """The share of entries that are read and never stored."""
    forgets: float = 0.0
    """The share of entries that are stored and never acknowledged, as by a crash between the two."""
    kills: int = 1
    """How many consumers are killed (SIGKILL) on the way, one after another; at least one has to be left."""
    batch_size: int = 20
    """How many entries are read at once: as many are left behind by a kill."""
    can_process: Callable[[Fields], bool] = _always
    """What is false here is given up by every consumer that reads it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One field of the hits, as it is printed."""

    field: str
    cells: int
    style: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One set-up that can be run; `examples/<name>.json` holds its settings."""

    name: str
    things: str
    """What is produced, in the plural."""
    produce: Callable[[Production], Iterator[Burst]]
    check: Callable[[Redis, Scene], Awaitable[list[Check]]]
    queries: tuple[Query, ...]
    columns: tuple[Column, ...]
    """What is shown of a hit beside its key; the last one takes the room that is left."""
    key_cells: int = 25
    faults: Faults = Faults()
    janitors: int = 1
    rate: float | None = None
    """Items a second, if the example has a rhythm of its own; None: as --rate says."""
    count: Callable[[Production], int] | None = None
    """How many items there are, if that does not depend on the time."""
    consumers_stay: bool = False
    """Consumers work on until nothing is pending and nothing is unread: what was abandoned comes back to them."""
    is_witnessed: bool = False
    """Somebody watches every command that the server runs (MONITOR), as the check needs it."""

    @property
    def values(self) -> dict[str, str]:
        """The app settings of its file."""
        return _values(self.name)

    @property
    def stream(self) -> StreamSettings:
        """The names and rules that its programs and the janitors share."""
        return _stream(self.name)

    @property
    def janitor_names(self) -> tuple[str, ...]:
        name = self.stream.consumer
        return (name,) if self.janitors == 1 else tuple(f"{name}-{n}" for n in range(1, self.janitors + 1))


def _values(name: str) -> dict[str, str]:
    document: dict[str, dict[str, str]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document["Values"]


@functools.cache
def _stream(name: str) -> StreamSettings:
    return Settings.from_env(_values(name)).streams[0]
