"""What the index of a cluster is called: one name, or one for each shard.

With its coordinator (Redis 8's own distribution, Redis Enterprise) the search module takes an index's name for no key: any
server answers, for all shards. Without it (the module alone, as Redis Stack's package has it) the name is a key: FT.CREATE
is redirected to the shard of the name's slot, and the index holds what lies there. So each shard gets an index of its own,
``tweets-index{3}``, whose hash tag lies in that shard, and what is asked of one index is asked of each.

When the slot of such a name moves to another shard, the index stays behind: it goes on indexing and cannot be reached, nor
dropped, until the slot comes back. Its shard then gets another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, RedisError, ResponseError

from shared.cluster import OUT_OF_REACH, Address, ClusterLink, Topology
from shared.hash_tags import has_hash_tag
from shared.retry import is_worth_repeating


@dataclass(frozen=True, slots=True)
class ShardIndexes:
    """What the index of one name is called in a cluster of one topology."""

    names: tuple[str, ...]
    """One, where it spans all shards."""
    left_behind: tuple[str, ...] = ()
    """Indexes of this name that are out of reach since their slot moved."""


_known: WeakKeyDictionary[ClusterLink, dict[str, tuple[Topology, ShardIndexes]]] = WeakKeyDictionary()


async def shard_indexes(link: ClusterLink, name: str) -> ShardIndexes:
    """What the index called ``name`` is called here; asked once for each topology.

    Raises:
        redis.exceptions.RedisError: not known; asking again is safe.
    """
    topology = await link.topology()
    of_link = _known.setdefault(link, {})
    if name in of_link and of_link[name][0] is topology:
        return of_link[name][1]
    found, is_whole = await _found(link, name, topology)
    if is_whole:
        of_link[name] = topology, found
    return found


async def _found(link: ClusterLink, name: str, topology: Topology) -> tuple[ShardIndexes, bool]:
    """What there is, and whether every shard could be asked: one that is out of reach must not stop the others' sweep."""
    # A name with a tag was chosen to lie where the hashes do; and one shard needs one index.
    if has_hash_tag(name) or len(topology.primaries) < 2 or await _one_name_spans_shards(link, name, topology):
        return ShardIndexes((name,)), True
    names: list[str] = []
    is_whole = True
    left_behind: list[str] = []
    for primary in topology.primaries:
        reachable: list[str] = []
        try:
            indexes = await _of_this_name(link, name, primary)
        except OUT_OF_REACH:
            indexes, is_whole = [], False
        for index in indexes:
            is_here = topology.owner(key_slot(index.encode())) == primary
            (reachable if is_here else left_behind).append(index)
        names.append(min(reachable) if reachable else f"{name}{{{topology.tag_in(primary)}}}")
    return ShardIndexes(tuple(names), tuple(left_behind)), is_whole


async def _one_name_spans_shards(link: ClusterLink, name: str, topology: Topology) -> bool:
    """Whether a server that does not serve the name's slot answers for it: only what is no key is not redirected."""
    owner = topology.owner(key_slot(name.encode()))
    failure: RedisError | None = None
    for other in link.nearest(topology.primaries):
        if other == owner:
            continue
        try:
            await link.ask(other, "FT.INFO", name)
        except MovedError:
            return False
        except OUT_OF_REACH as error:
            failure = error
            continue
        except ResponseError as error:
            if isinstance(error, ClusterDownError) or is_worth_repeating(error):
                raise
        return True
    assert failure is not None
    raise failure


async def _of_this_name(link: ClusterLink, name: str, primary: Address) -> list[str]:
    """The indexes on one server that were made for ``name``; none if this user may not ask."""
    try:
        indexes = await link.ask(primary, "FT._LIST")
    except ResponseError as error:
        if is_worth_repeating(error):
            raise
        return []
    texts = [index.decode("utf-8", "replace") for index in indexes]
    return [index for index in texts if index.startswith(f"{name}{{") and index.endswith("}")]
