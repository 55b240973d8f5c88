"""Where a method works: a fresh server, or a fresh cluster of three masters and their replicas; gone at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from bench.bystander import KEY as BYSTANDER_KEY
from bench.prepared import PREFIX, STREAM, PreparedFiles
from bench.target import Part, Target
from demo.cluster import ClusterNode, RedisCluster
from demo.redis import RedisServer

Setup = Callable[[PreparedFiles, int, bool], AbstractContextManager[Target]]
"""Of so many entries, indexed or not; groups and index are there, no entry is yet."""

PARTITIONS = 8


@contextlib.contextmanager
def one_stream(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    with RedisServer(search=indexed) as server:
        yield _ready(Target(server.port, entries, indexed))


@contextlib.contextmanager
def one_stream_and_the_limits_file(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    with RedisServer(search=indexed) as server:
        yield _ready(Target(server.port, entries, indexed, str(files.limit(entries))))


@contextlib.contextmanager
def one_stream_and_the_limits_file_of_requeue(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    with RedisServer(search=indexed) as server:
        yield _ready(Target(server.port, entries, indexed, str(files.requeue_limit(entries))))


@contextlib.contextmanager
def eight_streams(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    with RedisServer(search=indexed) as server:
        names = [f"{STREAM.decode()}:{number}" for number in range(PARTITIONS)]
        parts = _shared_out(entries, [(server.port, name, PREFIX.decode()) for name in names])
        yield _ready(Target(server.port, entries, indexed, parts=parts))


@contextlib.contextmanager
def cluster(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    """One stream in one shard, the hashes in all of them."""
    with RedisCluster(search=indexed) as servers:
        node = servers.master_of(STREAM)
        yield _in_cluster(servers, entries, indexed, [(node.port, STREAM.decode(), PREFIX.decode())])


@contextlib.contextmanager
def cluster_one_tag(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    """One stream and its hashes in the same shard."""
    with RedisCluster(search=indexed) as servers:
        yield _in_cluster(servers, entries, indexed, [_tagged(servers, next(iter(servers.masters())))])


@contextlib.contextmanager
def cluster_tag_each(files: PreparedFiles, entries: int, indexed: bool) -> Iterator[Target]:
    """As many streams as there are masters, each with its hashes in a shard of its own."""
    with RedisCluster(search=indexed) as servers:
        yield _in_cluster(servers, entries, indexed, [_tagged(servers, node) for node in servers.masters()])


def _tagged(servers: RedisCluster, master: ClusterNode) -> tuple[int, str, str]:
    tag = servers.tag_on(master)
    return master.port, f"{STREAM.decode()}:{{{tag}}}", f"{{{tag}}}{PREFIX.decode()}"


def _in_cluster(servers: RedisCluster, entries: int, indexed: bool, places: list[tuple[int, str, str]]) -> Target:
    assert not indexed, "a cluster's shards need an index each; these rounds do without"
    return _ready(
        Target(
            servers.port,
            entries,
            indexed,
            parts=_shared_out(entries, places),
            cluster_ports=tuple(node.port for node in servers.nodes),
            bystander_port=servers.master_of(BYSTANDER_KEY).port,
        )
    )


def _shared_out(entries: int, places: list[tuple[int, str, str]]) -> tuple[Part, ...]:
    """The entries in parts that differ by one entry at the most."""
    edges = [entries * number // len(places) for number in range(len(places) + 1)]
    return tuple(
        Part(port, first, end - first, stream, prefix)
        for (port, stream, prefix), first, end in zip(places, edges, edges[1:], strict=False)
    )


def _ready(target: Target) -> Target:
    target.create_groups_and_index()
    return target


SETUPS: dict[str, Setup] = {
    setup.__name__: setup
    for setup in (
        one_stream,
        one_stream_and_the_limits_file,
        one_stream_and_the_limits_file_of_requeue,
        eight_streams,
        cluster,
        cluster_one_tag,
        cluster_tag_each,
    )
}
