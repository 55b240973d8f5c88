"""A cluster as the tests look at it: one client's interface, each command at the master of its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import redis
from redis.exceptions import MovedError

from demo.cluster import ClusterNode, RedisCluster
from shared.cluster import key_of


class Sharded:
    """What the scenes use of ``redis.Redis``: raw replies in bytes; KEYS asks every master, ACL every server."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self._masters: dict[bytes, ClusterNode] = {}

    def execute_command(self, *command: Any) -> Any:
        if command[0] == "ACL":  # users are not replicated
            return [node.call(*command) for node in self._cluster.nodes]
        if command[0] == "KEYS":
            return [key for master in self._cluster.masters() for key in master.call(*command)]
        key = key_of(("XREADGROUP", command[-2]) if command[0] == "XREADGROUP" else command)
        assert key is not None, command
        master = self._masters.get(key) or self._cluster.master_of(key)
        try:
            reply = master.call(*command)
        except MovedError:
            master = self._cluster.master_of(key)
            reply = master.call(*command)
        self._masters[key] = master
        return reply

    def pipeline(self, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self.execute_command)


class Pipeline:
    def __init__(self, execute: Callable[..., Any]) -> None:
        self._execute = execute
        self._commands: list[tuple[Any, ...]] = []

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        return [self._reply(command, raise_on_error) for command in self._commands]

    def _reply(self, command: tuple[Any, ...], raise_on_error: bool) -> Any:
        try:
            return self._execute(*command)
        except redis.ResponseError as error:
            if raise_on_error:
                raise
            return error


def client_of(cluster: RedisCluster) -> redis.Redis:
    return cast(redis.Redis, Sharded(cluster))
