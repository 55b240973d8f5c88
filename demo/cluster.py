"""A real Redis Cluster on this machine: `python -m demo.cluster [--port N]`.

Three masters with a replica each (or as many as asked for) from `demo.redis`: real slots, redirects, resharding and
failover. Nodes are joined with plain commands, since the packages bring no redis-cli.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.retry import Retry

from demo.redis import PORT_ATTEMPTS, PortTaken, RedisServer, ServerFailed, port_is_free, run_program

READY_TIMEOUT_S: Final = 90.0
MIGRATE_TIMEOUT_MS: Final = 5000
KEYS_MIGRATED_AT_ONCE: Final = 100
BUS_OFFSET: Final = 10_000
# Both a node's port and that of its bus are below the ephemeral range: what is free stays free while a node is down.
NODE_PORTS: Final = range(12_000, 22_000)


class ClusterNotReady(ServerFailed):
    """The cluster did not become whole in time; the message says what was missing last."""


class ClusterNode:
    """One server of the cluster. Whether it is a master now, only the cluster can tell."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.node_id = ""
        """The cluster's name for it, the same over kill and revival."""
        self._client: redis.Redis | None = None

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def running(self) -> bool:
        return self.server.running

    def call(self, *command: bytes | str | int) -> Any:
        """What this very node answers, redirects and all: bytes, as RESP3 has it."""
        if self._client is None:
            self._client = redis.Redis(port=self.port, protocol=3, socket_timeout=60, retry=Retry(NoBackoff(), 0))
            self._client.response_callbacks.clear()
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def info(self, section: str) -> dict[str, str]:
        """One section of INFO, or what CLUSTER INFO says if that is the section."""
        command = ("CLUSTER", "INFO") if section == "cluster" else ("INFO", section)
        lines = self.call(*command).decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __repr__(self) -> str:
        return f"ClusterNode({self.address})"


@dataclass(frozen=True, slots=True)
class View:
    """Who serves what, as one node sees it. Nodes that it takes for failed keep their role until somebody is promoted."""

    slots: dict[str, tuple[range, ...]]
    """Of each master, by node id."""
    master_of: dict[str, str]
    """Replica → master."""


class RedisCluster:
    """A cluster on 127.0.0.1 that is gone when its starter is gone; a context manager, or start() and stop().

    Nothing is on disk but each node's nodes.conf: a node that was killed comes back as the cluster's member, empty.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        search: bool = True,
        node_timeout_ms: int = 2000,
        port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """``replicas`` of each master; ``port``: the first node's, the others' follow; none: random ones."""
        self._masters = masters
        self._search = search
        self._first_port = port
        self._arguments = (
            "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
            "--cluster-node-timeout", str(node_timeout_ms), "--repl-diskless-sync-delay", "0",
            "--rdb-del-sync-files", "yes",  # a replica would come back with what it once was sent
            *arguments,
        )  # fmt: skip
        self._size = masters * (1 + replicas)
        self._servers: dict[int, RedisServer] = {}
        self._moves: dict[int, tuple[ClusterNode, ClusterNode]] = {}
        self.nodes: tuple[ClusterNode, ...] = ()
        """In the beginning the masters, in the order of their slots, then the replicas in their masters' order."""

    # --- its life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all nodes, and return once every slot is served and every replica is in sync.

        Raises PortTaken, ServerFailed; nothing is left running then.
        """
        if self.nodes:
            return
        try:
            with ThreadPoolExecutor(self._size) as pool:
                self.nodes = tuple(map(ClusterNode, pool.map(self._start_server, range(self._size))))
            self._join()
            _wait_until(self._trouble)
            self._write_to_each()
            self.wait_until_ok()
        except BaseException:
            self.stop()
            raise

    def _start_server(self, number: int) -> RedisServer:
        for attempt in count(1):
            port = _free_port() if self._first_port is None else self._first_port + number
            server = self._servers[number] = RedisServer(self._search, port, arguments=self._arguments)
            try:
                server.start()
            except PortTaken:
                if self._first_port is not None or attempt == PORT_ATTEMPTS:
                    raise
            else:
                break
        return server

    def _join(self) -> None:
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for epoch, node in enumerate(self.nodes, 1):
            node.node_id = node.call("CLUSTER", "MYID").decode()
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for number, node in enumerate(masters):
            first, end = (REDIS_CLUSTER_HASH_SLOTS * edge // self._masters for edge in (number, number + 1))
            node.call("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node in self.nodes:
            for other in self.nodes:
                node.call("CLUSTER", "MEET", "127.0.0.1", other.port)
        _wait_until(self._all_have_met, READY_TIMEOUT_S)
        for number, node in enumerate(replicas):
            node.call("CLUSTER", "REPLICATE", masters[number % self._masters].node_id)

    def _write_to_each(self) -> None:
        """CLUSTER SLOTS leaves out a replica that was never sent anything."""
        for node in self.masters():
            key = f"{{{self.tag_on(node)}}}"
            node.call("SET", key, "")
            node.call("DEL", key)

    def _all_have_met(self) -> str | None:
        for node in self.nodes:
            lines = node.call("CLUSTER", "NODES").decode().splitlines()
            if len([line for line in lines if "handshake" not in line]) < self._size:
                return f"{node.address} has not met all others"
        return None

    def stop(self) -> None:
        """Shut every node down and remove its folder."""
        for node in self.nodes:
            node.close()
        with ThreadPoolExecutor(self._size) as pool:
            list(pool.map(RedisServer.stop, self._servers.values()))
        self.nodes = ()
        self._servers.clear()
        self._moves.clear()

    def __enter__(self) -> RedisCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether any node is."""
        return any(node.running for node in self.nodes)

    @property
    def port(self) -> int:
        return self.nodes[0].port

    @property
    def address(self) -> str:
        return self.nodes[0].address

    @property
    def url(self) -> str:
        """For the demo's own programs; other clients want redis://."""
        return f"redis+cluster://{self.address}"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of the function app that lead to this cluster, by its first node."""
        return {**self.nodes[0].server.environment, "REDIS_CLUSTER": "true"}

    def log_text(self) -> str:
        """What the nodes have logged, one after the other."""
        return "\n".join(node.server.log_text() for node in self.nodes)

    # --- who serves what ----------------------------------------------------------------------------------------

    def masters(self) -> dict[ClusterNode, tuple[range, ...]]:
        """Which node serves which slots now, in the eyes of the first living node: a dead one until it is replaced."""
        slots = _view(self._living()).slots
        return {node: slots[node.node_id] for node in self.nodes if node.node_id in slots}

    def master_of(self, key: bytes | str) -> ClusterNode:
        return self._master_of_slot(key_slot(key.encode() if isinstance(key, str) else key))

    def replica_of(self, master: ClusterNode) -> ClusterNode:
        """A living replica of it. Raises LookupError if there is none."""
        master_of = _view(self._living()).master_of
        for node in self.nodes:
            if node.running and master_of.get(node.node_id) == master.node_id:
                return node
        raise LookupError(f"{master} has no living replica")

    def tag_on(self, master: ClusterNode) -> str:
        """A hash tag, without its braces, whose slot this master serves now."""
        slots = self.masters()[master]
        return next(tag for tag in map(str, count()) if any(key_slot(tag.encode()) in served for served in slots))

    def _master_of_slot(self, slot: int) -> ClusterNode:
        return next(node for node, slots in self.masters().items() if any(slot in served for served in slots))

    def _living(self) -> ClusterNode:
        return next(node for node in self.nodes if node.running)

    # --- what happens to it -------------------------------------------------------------------------------------

    def kill(self, node: ClusterNode) -> None:
        """End it without warning (SIGKILL). A replica takes a master's place some time after the node timeout."""
        node.close()
        node.server.kill()

    def wait_for_successor(self, master: ClusterNode) -> ClusterNode:
        """The replica that took the killed master's place, once all living nodes know of it."""
        replica = self.replica_of(master)
        self.wait_until_ok()
        return replica

    def revive(self, node: ClusterNode) -> None:
        """Start it again: same port, same folder, same node id.

        Its memory is empty: a master that comes back before its replica was promoted empties that one too.
        """
        node.server.start()

    def failover(self, replica: ClusterNode) -> None:
        """Let the replica take its living master's place in good order, without loss."""
        replica.call("CLUSTER", "FAILOVER")
        _wait_until(lambda: None if replica.info("replication")["role"] == "master" else f"{replica} is no master")

    def wait_until_ok(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once all living nodes agree, living masters serve all slots, and living replicas are in sync.

        Raises ClusterNotReady.
        """
        _wait_until(self._trouble, timeout_s)
        _wait_until(self._unknown_replicas, timeout_s)

    def _trouble(self) -> str | None:
        living = [node for node in self.nodes if node.running]
        views = [_view(node) for node in living]
        if any(view != views[0] for view in views):
            return "the nodes do not agree about who serves what"
        if not views[0].slots.keys() <= {node.node_id for node in living}:
            return "a dead master was not replaced"
        for node in living:
            if node.info("cluster")["cluster_state"] != "ok":
                return f"{node.address} says that the cluster is not ok"
            if node.node_id in views[0].master_of and node.info("replication").get("master_link_status") != "up":
                return f"{node.address} is not in sync with its master"
        for replica in living:
            master = self._by_id(views[0].master_of.get(replica.node_id))
            if master and master.call("WAIT", 1, 1000) < 1:
                return f"no replica of {master.address} confirms"
        return None

    def _unknown_replicas(self) -> str | None:
        living = [node for node in self.nodes if node.running]
        replicas = {node.node_id.encode() for node in living} & {id.encode() for id in _view(living[0]).master_of}
        for node in living:
            if not replicas <= {row[2] for _, _, _, *rows in node.call("CLUSTER", "SLOTS") for row in rows}:
                return f"{node.address} does not list all living replicas"
        return None

    def _by_id(self, node_id: str | None) -> ClusterNode | None:
        return next((node for node in self.nodes if node.node_id == node_id), None)

    # --- resharding ---------------------------------------------------------------------------------------------

    def move_slot(self, slot: int, to_node: ClusterNode) -> None:
        """Move one slot with its keys to another master, as redis-cli --cluster reshard does."""
        self.begin_move(slot, to_node)
        self.finish_move(slot)

    def begin_move(self, slot: int, to_node: ClusterNode) -> None:
        """Open the move and leave it there: keys that the source does not have are redirected with ASK."""
        source = self._master_of_slot(slot)
        to_node.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", to_node.node_id)
        self._moves[slot] = (source, to_node)

    def migrate_keys(self, slot: int, most: int | None = None) -> int:
        """Move that many keys of a slot whose move has begun, all if not told; returns how many."""
        source, target = self._moves[slot]
        moved = 0
        while most is None or moved < most:
            at_once = KEYS_MIGRATED_AT_ONCE if most is None else min(KEYS_MIGRATED_AT_ONCE, most - moved)
            keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, at_once)
            if not keys:
                break
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, MIGRATE_TIMEOUT_MS, "KEYS", *keys)
            moved += len(keys)
        return moved

    def finish_move(self, slot: int) -> None:
        """Move the keys that are left and hand the slot over; returns once every living node knows."""
        self.migrate_keys(slot)
        source, target = self._moves.pop(slot)
        # The target first: were it the source, nobody would serve the slot for a moment.
        for node in (target, source, *(other for other in self.masters() if other not in (source, target))):
            if node.running:
                node.call("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)
        _wait_until(lambda: None if self._all_know(slot, target) else f"not all know where slot {slot} is")

    def _all_know(self, slot: int, master: ClusterNode) -> bool:
        views = [_view(node) for node in self.nodes if node.running]
        return all(any(slot in served for served in view.slots.get(master.node_id, ())) for view in views)


def _view(node: ClusterNode) -> View:
    slots, master_of = {}, {}
    for line in node.call("CLUSTER", "NODES").decode().splitlines():
        node_id, _, flags, master, _, _, _, _, *ranges = line.split(" ")
        served = tuple(map(_slots, (text for text in ranges if not text.startswith("["))))  # [: a move under way
        if master != "-":
            master_of[node_id] = master
        elif served or "master" in flags.split(","):
            slots[node_id] = served
    return View({node_id: served for node_id, served in slots.items() if served}, master_of)


def _slots(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _wait_until(trouble: Callable[[], str | None], timeout_s: float = READY_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while text := _trouble_or_error(trouble):
        if time.monotonic() > deadline:
            raise ClusterNotReady(f"{text}, after {timeout_s:g} s")
        time.sleep(0.02)


def _trouble_or_error(trouble: Callable[[], str | None]) -> str | None:
    try:
        return trouble()
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"


def _free_port() -> int:
    for _ in range(200):
        port = NODE_PORTS.start + secrets.randbelow(len(NODE_PORTS))
        if port_is_free(port) and port_is_free(port + BUS_OFFSET):
            return port
    raise ServerFailed("found no free pair of ports on 127.0.0.1")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_program(
        "demo.cluster",
        "Run a Redis Cluster with search here: three masters, three replicas.",
        "port of the first of six nodes on 127.0.0.1 (default: free ones)",
        lambda port: RedisCluster(port=port),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
