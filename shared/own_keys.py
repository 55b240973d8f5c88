"""The keys that are ours beside a stream, and what keeps entries' hashes off them: an entry's id is anybody's text.

An own key that began with HASH_PREFIX could be named by an id: the hash would lie where our dead letters belong. Such settings
are refused (``collisions``), and whoever is about to write a hash asks ``guarded_keys``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.hash_tags import has_hash_tag

if TYPE_CHECKING:
    from shared.settings import Settings, StreamSettings


class Kind(NamedTuple):
    """One key that a consumer group has of us."""

    variable: str
    """Which makes the janitor use it."""
    is_used: Callable[[StreamSettings], bool]


RATE: Final = "rate"
KINDS: Final = {RATE: Kind("RECOVERY_RATE_LIMIT", lambda stream: stream.rate_limit > 0)}


def own_key(stream: str, kind: str, group: str) -> str:
    """``{<stream>}:<kind>:<group>``; a stream's own hash tag is kept. In a cluster it lies in the stream's slot.

    A stream name that holds a ``}`` but no hash tag (such as ``a}b``) cannot be tagged: the key lies elsewhere then.
    """
    tagged = stream if has_hash_tag(stream) else f"{{{stream}}}"
    return f"{tagged}:{kind}:{group}"


def attempts_key(dead_letter_stream: str) -> str:
    """Where the attempts that ended in an entry's own, unknown error are counted."""
    return f"{dead_letter_stream}:attempts"


def own_keys(settings: Settings) -> frozenset[bytes]:
    """Every key that no hash may be written to, whatever an entry's id says.

    The streams themselves are among them, and of each kind the key, also where these settings do not use it: another janitor of
    the group may.
    """
    return frozenset(key.encode() for stream in settings.streams for key in _keys(stream))


def guarded_keys(stream: StreamSettings) -> tuple[bytes, ...]:
    """The stream's own keys, and the stream itself, that begin with its HASH_PREFIX: an entry's id could name them.

    None with most settings: keys in use that do are refused (``collisions``). What is left are the stream's own name, and keys
    that only another janitor of the group uses.
    """
    return tuple(key.encode() for key in _keys(stream) if key.startswith(stream.hash_prefix))


def _keys(stream: StreamSettings) -> Iterator[str]:
    """The stream, and every key that is ours beside it, used or not."""
    yield stream.stream
    yield from (key for _, key in _dead_letter_keys(stream))
    yield from (own_key(stream.stream, kind, stream.group) for kind in KINDS)


class Collision(NamedTuple):
    """A key of ours that begins with the prefix of hashes; both streams by their place in the settings."""

    prefix_of: int
    key_of: int
    variable: str
    """Which makes the janitor use the key."""


def collisions(streams: Sequence[StreamSettings]) -> Iterator[Collision]:
    """Which keys in use begin with which HASH_PREFIX, of whatever streams.

    A stream whose own name begins with it is none: its entries are the producers', an id that names it meets a key of another
    type, and who has such streams and hashes cannot rename either.
    """
    prefixes = tuple(stream.hash_prefix for stream in streams)
    for at, stream in enumerate(streams):
        for variable, key in _keys_in_use(stream):
            if key.startswith(prefixes):  # one look at all of them: there may be hundreds of partitions
                for prefix_at, prefix in enumerate(prefixes):
                    if key.startswith(prefix):
                        yield Collision(prefix_at, at, variable)


def _keys_in_use(stream: StreamSettings) -> Iterator[tuple[str, str]]:
    """Each with the variable that makes the janitor use it."""
    yield from _dead_letter_keys(stream)
    for name, kind in KINDS.items():
        if kind.is_used(stream):
            yield kind.variable, own_key(stream.stream, name, stream.group)


def _dead_letter_keys(stream: StreamSettings) -> Iterator[tuple[str, str]]:
    dead = stream.dead_letter_stream
    if dead is not None:
        yield "DEAD_LETTER_STREAM", dead
        yield "DEAD_LETTER_STREAM", attempts_key(dead)
