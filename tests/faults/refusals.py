"""The server answers, and will not do it: it is full, cannot save, lost its replicas, is a replica, is loading, is blocked, or
the user has not the right."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import redis

from demo.redis import RedisServer
from monitor.janitor import Janitor
from tests.faults.invariants import look, violations
from tests.faults.kills import WRITES, boundaries, held_at
from tests.faults.proxy import Barrier
from tests.faults.runner import Body, Case, Make, Row, Stage, aftermath, spread, sweep
from tests.faults.worlds import World, client

WAIT_S = 10.0
TICKS_BEFORE = 3
BUDGET_S = "0.4"
"""Some refusals may pass, so they are tried again until the budget's end."""


@dataclass
class Refusal:
    """One way to refuse; ``on`` and ``off`` return when the server is in that state."""

    server: RedisServer
    raw: redis.Redis

    def prepare(self) -> None: ...

    def on(self) -> None: ...

    def off(self) -> None: ...

    def forget(self) -> None:
        """Let the server end as servers do."""

    def is_on(self) -> bool:
        return True


class FullMemory(Refusal):
    def on(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "maxmemory", "1")

    def off(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "maxmemory", "0")


class Misconf(Refusal):
    def prepare(self) -> None:
        """A folder where the dump should go: every BGSAVE fails at its end, for root too."""
        (self.server.folder / "dump.rdb").mkdir()
        self.raw.execute_command("CONFIG", "SET", "save", "86400 1000000", "stop-writes-on-bgsave-error", "no")
        self.raw.execute_command("BGSAVE")
        _wait_until(lambda: b"rdb_last_bgsave_status:err" in self.raw.execute_command("INFO", "persistence"))

    def on(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "stop-writes-on-bgsave-error", "yes")

    def off(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")

    def forget(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "save", "")  # else it would not end before it has saved


class NoReplicas(Refusal):
    def on(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "min-replicas-to-write", "1")

    def off(self) -> None:
        self.raw.execute_command("CONFIG", "SET", "min-replicas-to-write", "0")


class ReadOnly(Refusal):
    def on(self) -> None:
        self.raw.execute_command("REPLICAOF", "127.0.0.1", "1")

    def off(self) -> None:
        self.raw.execute_command("REPLICAOF", "NO", "ONE")


class Loading(Refusal):
    """Comes back from a crash and takes half a second to read its append-only file; every 1,024 commands it answers."""

    COMMANDS = 60_000
    ONE_IN_IS_SLOW = 8
    """So that 1,024 commands take about 7 ms; a delay for each would be too long between two answers."""

    def prepare(self) -> None:
        pipeline = self.raw.pipeline(transaction=False)
        for number in range(self.COMMANDS):
            pipeline.execute_command("SET", f"filler:{number % 7}", number)
        pipeline.execute()

    def on(self) -> None:
        self.server.kill()
        self._starting = threading.Thread(target=self.server.start)
        self._starting.start()
        _wait_until(lambda: self._state() != "away")

    def off(self) -> None:
        self._starting.join()

    def is_on(self) -> bool:
        return self._state() == "loading"

    def _state(self) -> str:
        """By one round trip; a client's greetings would take several."""
        try:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_S) as asking:
                asking.sendall(b"PING\r\n")
                return {b"-LOA": "loading", b"+PON": "up"}.get(asking.recv(4), "away")
        except OSError:
            return "away"


class Blocked(Refusal):
    """A script that does not end, and has not written, so that SCRIPT KILL can end it."""

    def on(self) -> None:
        self._blocking = threading.Thread(target=self._block)
        self._blocking.start()
        _wait_until(self.is_on)

    def _block(self) -> None:
        with client(self.server.port) as one, contextlib.suppress(redis.ResponseError):
            one.execute_command("EVAL", "while true do end", 0)

    def off(self) -> None:
        self.raw.execute_command("SCRIPT", "KILL")
        self._blocking.join()

    def is_on(self) -> bool:
        try:
            self.raw.execute_command("PING")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "the fault did not come"
        time.sleep(0.002)


ARGUMENTS: dict[type[Refusal], tuple[str, ...]] = {
    Loading: ("--appendonly", "yes", "--appendfsync", "no", "--key-load-delay", str(-Loading.ONE_IN_IS_SLOW)),
    Blocked: ("--lua-time-limit", "20"),
}


def refused(kind: type[Refusal]) -> Body:
    """The body for one way to refuse: half of the cases before a sweep, half at a barrier in the middle of one."""

    async def body(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
        server = stage.new_server(*ARGUMENTS.get(kind, ()))
        refusal = kind(server, stage.looking_at(server))
        refusal.prepare()
        share = max(count // (2 * len(stage.modes)), 1)
        for mode in stage.modes:
            world = stage.world(mode, "newer", refusal.raw, MAX_ATTEMPTS="1")
            for number in range(share):
                yield Case(f"{mode}, before sweep {number}", await _before(refusal, world, make))
            places = await boundaries(stage, make, world, WRITES)
            for at in spread(len(places), share):
                yield Case(f"{mode}, during, at {places[at]}", await _during(refusal, world, make, *places[at]))
        refusal.forget()

    return body


async def _before(refusal: Refusal, world: World, make: Make) -> list[str]:
    """Several ticks of it, each with an error, none of them counted against an entry (MAX_ATTEMPTS is 1)."""
    world.seed_a_bit_of_everything()
    await asyncio.to_thread(refusal.on)
    found = []
    for _ in range(TICKS_BEFORE):
        with contextlib.suppress(redis.RedisError):  # a server that refuses this as well refused the claim too
            world.age_what_the_janitor_claimed()
        report = await sweep(world, make, SWEEP_BUDGET_SEC=BUDGET_S)
        if not report.error and await asyncio.to_thread(refusal.is_on):
            found.append(f"refused, and no error: {report}")
    await asyncio.to_thread(refusal.off)
    return found + await aftermath(world)


async def _during(refusal: Refusal, world: World, make: Make, at: int, after: bool) -> list[str]:
    world.seed_a_bit_of_everything()
    barrier = Barrier(at, after)
    _, running = await held_at(world, make, barrier, refusal.server.port, SWEEP_BUDGET_SEC="0.8")
    await asyncio.to_thread(refusal.on)
    barrier.release()
    await running
    await asyncio.to_thread(refusal.off)
    return await aftermath(world)


# --- rights -----------------------------------------------------------------------------------------------------------------

CONNECTING = ("hello", "ping", "client|setname", "client|setinfo")
READING = ("xpending", "time", "xrange", "ft.info", "ft.search", "ft.create")
QUARANTINE = ("xadd", "xack", "hincrby", "expire", "hdel")
RIGHTS = {
    "script": (*CONNECTING, *READING, *QUARANTINE, "evalsha", "script|load", "xclaim", "hset", "hget", "hkeys"),
    "gather": (*CONNECTING, *READING, *QUARANTINE, "evalsha", "script|load", "xclaim", "hset", "hget", "hkeys"),
}
"""What ON_CONFLICT=newer needs; the strictest rule."""
DOES_WITHOUT = {
    "hello",
    "ping",
    "client|setname",
    "client|setinfo",
    "ft.search",
    "ft.create",
    "hincrby",
    "expire",
    "hdel",
}
"""Rights whose lack need not end the sweep, or that this world does not come to use."""


@dataclass
class Login:
    """An ACL user for one world."""

    world: World
    rights: tuple[str, ...]
    environment: dict[str, str] = field(
        default_factory=lambda: {"REDIS_USERNAME": "limited", "REDIS_PASSWORD": "canary"}
    )

    def set(self, without: str | None = None) -> None:
        allowed = [f"+{right}" for right in self.rights if right != without]
        self.world.must(
            ("ACL", "SETUSER", "limited", "reset", "on", ">canary", f"~{self.world.stream}*", "-@all", *allowed)
        )

    def forget(self) -> None:
        self.world.must(("ACL", "DELUSER", "limited"))


async def each_right_denied(stage: Stage, make: Make, count: int) -> AsyncIterator[Case]:
    """The whole janitor with no right too many, and then with each one taken away."""
    for mode in stage.modes:
        world = stage.world(mode, "newer")
        world.seed_a_bit_of_everything()
        await sweep(world, Janitor)
        rights = RIGHTS[mode] if stage.has_search else _without_search(RIGHTS[mode])
        login = Login(world, rights if make is Janitor else (*rights, "eval", "xreadgroup"))
        for right in (None, *login.rights):
            world.seed_a_bit_of_everything()
            world.must(("SCRIPT", "FLUSH"))
            login.set(without=right)
            report = await sweep(world, make, **login.environment)
            login.forget()
            found = _wrong_words(report.error, right, str(report))
            if right is None:
                found += violations(world, look(world))
            yield Case(f"{mode}, without {right or 'nothing'}", found + await aftermath(world))


def _without_search(rights: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(right for right in rights if not right.startswith("ft."))


def _wrong_words(error: str | None, right: str | None, report: str) -> list[str]:
    if right is None:
        return [f"every right was there, and: {error}"] if error else []
    if right in DOES_WITHOUT:
        return []
    named = right.lower() in report.lower()
    return [] if named else [f"the report does not name the right +{right}: {report}"]


def _row(name: str, part: str, kind: type[Refusal], quick: int = 8) -> Row:
    return Row(
        f"{name}, before and during a sweep",
        part,
        refused(kind),
        full=80,
        quick=quick,
        control={"ack_first": True, "hides_errors": True},
        control_full=40,
        control_quick=quick,
    )


ROWS = [
    _row("full memory", "oom", FullMemory),
    _row("MISCONF", "misconf", Misconf),
    _row("NOREPLICAS", "noreplicas", NoReplicas),
    _row("READONLY", "readonly", ReadOnly, quick=4),
    _row("LOADING", "loading", Loading, quick=4),
    _row("a script blocking the server", "busy", Blocked, quick=4),
    Row(
        "each ACL command denied",
        "acl",
        each_right_denied,
        full=48,
        quick=48,
        control={"one_pipeline": True, "hides_errors": True},
        control_full=48,
        control_quick=48,
    ),
]
