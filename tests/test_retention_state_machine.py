"""Whatever producers, groups and operators do, before a sweep and between any two of its commands: retention never trims an
entry that is pending in any group, that any group has not read, or that is young. Four naive ways are caught by the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from demo.redis import RedisServer
from monitor.pending import order_of
from monitor.retained import Policy
from monitor.retention import Retention
from monitor.scripts import Script, retention_script
from shared.redis_client import RedisLink
from tests.conftest import Wire, raw_client
from tests.retaining import HOUR_MS, POLICY, Kept, link_to, until

Id = tuple[int, int]
COUNTED, IGNORED = ("workers", "audit"), "tail"
KEEPS = Policy(HOUR_MS, ignored=("tai?",), own_groups=POLICY.own_groups)
ACTS = ("produce", "produce", "young", "create", "destroy", "set_id", "set_id", "read", "read", "finish", "finish", "acknowledge",
        "claim", "force", "force", "delete", "catch_up", "catch_up", "catch_up", "replay")  # fmt: skip
Act = tuple[str, int, int]
AN_ACT = st.tuples(st.sampled_from(ACTS), st.integers(0, 40), st.integers(0, 40))


def text_of(entry_id: Id) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


@dataclass
class Group:
    last: Id
    pending: set[Id] = field(default_factory=set)


Retain = Callable[[RedisLink, str], Awaitable[object]]


async def by_progress(link: RedisLink, stream: str) -> object:
    return await Retention(link, stream, KEEPS).run(until(link))


async def by_length(link: RedisLink, stream: str) -> object:
    """What people do: XTRIM MAXLEN."""
    return await link.call("XTRIM", stream, "MAXLEN", "=", 3)


async def by_a_bound_of_our_own(link: RedisLink, stream: str) -> object:
    """The right bound, found here and trimmed by afterwards."""
    rows = [row for row in await link.call("XINFO", "GROUPS", stream) if row[b"name"] != IGNORED.encode()]
    seconds, _ = await link.call("TIME")
    needed = [(int(seconds) * 1000 - HOUR_MS, 0), *(order_of(row[b"last-delivered-id"]) for row in rows)]
    for pending in await link.pipelined([("XPENDING", stream, row[b"name"], "-", "+", 1) for row in rows]):
        # An error: the group was destroyed meanwhile.
        needed += [] if isinstance(pending, Exception) else [order_of(one[0]) for one in pending]
    return await link.call("XTRIM", stream, "MINID", "=", text_of(min(needed))) if len(needed) > 1 else None


def by_another_script(text: str, instead: str) -> Retain:
    original = retention_script()
    assert original.text.count(text) == 1

    async def run(link: RedisLink, stream: str) -> object:
        retention = Retention(link, stream, KEEPS)
        retention._script = Script.of(original.text.replace(text, instead), original.arguments)
        return await retention.run(until(link))

    return run


only_last_delivered = by_another_script("if oldest and not is_before(at, oldest[1]) then", "if false then")
only_oldest_pending = by_another_script("if oldest and not is_before(at, oldest[1]) then", "if oldest then")


class Streams(RuleBasedStateMachine):
    """A stream in nodes of four entries, and what we know of it."""

    server: ClassVar[RedisServer]
    raw: ClassVar[redis.Redis]
    retain: ClassVar[Retain] = staticmethod(by_progress)
    checks_progress: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.link = link_to(self.server)
        self.kept = Kept(self.raw)
        self.stream = self.kept.stream
        self.entries: set[Id] = set()
        self.groups: dict[str, Group] = {}
        now_ms = self.kept.now_ms()
        self.young_ms, self.last = now_ms - HOUR_MS // 4, (now_ms - 24 * HOUR_MS, 0)
        self.act(("create", 0, 0))
        self.act(("create", 1, 0))
        self.act(("produce", 20, 0))

    def teardown(self) -> None:
        self.raw.delete(self.stream)
        self.loop.run_until_complete(self.link.close())
        self.loop.close()

    # --- what others do ---------------------------------------------------------------------------------------------------

    @rule(act=AN_ACT)
    def act(self, act: Act) -> None:
        name, first, second = act
        group = (*COUNTED, IGNORED)[first % 3]
        if name in ("produce", "young"):
            self._produce(1 + first % 20, name == "young")
        elif name == "create":
            self._create(group, second)
        elif name == "catch_up":
            self._catch_up()
        elif group in self.groups:
            getattr(self, f"_{name}")(group, second)

    def _produce(self, count: int, young: bool) -> None:
        if young:
            self.last = max(self.last, (self.young_ms, 0))
        ids = [(self.last[0], self.last[1] + 1 + number) for number in range(count)]
        pipeline = self.raw.pipeline(transaction=False)
        for entry_id in ids:
            pipeline.execute_command("XADD", self.stream, text_of(entry_id), "f", "v")
        pipeline.execute()
        self.last = ids[-1]
        self.entries.update(ids)

    def _some_id(self, second: int) -> Id:
        """One of the entries; the very beginning; the very end."""
        ids = sorted(self.entries)
        return [(0, 0), *ids, self.last][second % (len(ids) + 2)]

    def _create(self, group: str, second: int) -> None:
        if group not in self.groups:
            at = self._some_id(second)
            self.kept.run("XGROUP", "CREATE", self.stream, group, text_of(at), "MKSTREAM")
            self.groups[group] = Group(at)

    def _destroy(self, group: str, second: int) -> None:
        self.kept.run("XGROUP", "DESTROY", self.stream, group)
        del self.groups[group]

    def _set_id(self, group: str, second: int) -> None:
        at = self._some_id(second)
        self.kept.run("XGROUP", "SETID", self.stream, group, text_of(at))
        self.groups[group].last = at

    def _read(self, group: str, second: int) -> list[Id]:
        state = self.groups[group]
        ids = [order_of(one) for one in self.kept.read(group, 1 + second)]
        assert ids == sorted(one for one in self.entries if one > state.last)[: 1 + second]
        state.last = max([state.last, *ids])
        state.pending.update(ids)
        return ids

    def _finish(self, group: str, second: int) -> None:
        """Read, and acknowledge all of it."""
        self._forget(group, self._read(group, second))

    def _catch_up(self) -> None:
        """Every group reads and acknowledges all that there is."""
        for group, state in self.groups.items():
            self._forget(group, sorted(state.pending))
            self._finish(group, 1000)

    def _replay(self, group: str, second: int) -> None:
        """An operator sets a group back that has something pending, to have it read all again."""
        self._catch_up()
        self._produce(3, False)
        self._read(group, 1)
        self._set_id(group, second)

    def _acknowledge(self, group: str, second: int) -> None:
        pending = sorted(self.groups[group].pending)
        self._forget(group, pending[second % 3 :: 1 + second % 2])

    def _forget(self, group: str, ids: list[Id]) -> None:
        self.kept.acknowledge([text_of(one).encode() for one in ids], group)
        self.groups[group].pending.difference_update(ids)

    def _claim(self, group: str, second: int) -> None:
        ids = sorted(self.groups[group].pending & self.entries)[: 1 + second % 3]
        if ids:
            self.kept.run("XCLAIM", self.stream, group, "other", 0, *map(text_of, ids))

    def _force(self, group: str, second: int) -> None:
        """XCLAIM FORCE makes any entry pending, above the last delivered one too."""
        if self.entries:
            entry_id = sorted(self.entries)[second % len(self.entries)]
            self.kept.run("XCLAIM", self.stream, group, "other", 0, text_of(entry_id), "FORCE", "JUSTID")
            self.groups[group].pending.add(entry_id)

    def _delete(self, group: str, second: int) -> None:
        if self.entries:
            entry_id = sorted(self.entries)[second % len(self.entries)]
            self.kept.run("XDEL", self.stream, text_of(entry_id))
            self.entries.discard(entry_id)

    # --- the sweep --------------------------------------------------------------------------------------------------------

    @rule(meanwhile=st.lists(AN_ACT, max_size=4))
    def sweep(self, meanwhile: list[Act]) -> None:
        """Between any two commands something else happens; what each command took away is looked at right after it."""
        left = list(meanwhile)
        wire = Wire(self.link)
        protected: set[Id] = set()

        def before(command: object) -> None:
            nonlocal protected
            if left:
                self.act(left.pop(0))
            protected = self._protected()

        def after(command: object, reply: object) -> None:
            present = {order_of(one) for one in self.kept.ids()}
            gone, self.entries = self.entries - present, present
            assert not gone & protected, "an entry is gone that somebody still needs"

        wire.before, wire.after = before, after
        try:
            self.loop.run_until_complete(type(self).retain(self.link, self.stream))
        finally:
            del self.link.call, self.link.pipelined  # type: ignore[attr-defined]
        if self.checks_progress:
            self._check_progress()

    def _counted(self) -> list[Group]:
        return [group for name, group in self.groups.items() if name != IGNORED]

    def _protected(self) -> set[Id]:
        groups = self._counted()
        if not groups:
            return set(self.entries)
        young = {one for one in self.entries if one[0] >= self.young_ms}
        return young.union(*(group.pending for group in groups), *(self._unread(group) for group in groups))

    def _unread(self, group: Group) -> set[Id]:
        return {one for one in self.entries if one > group.last}

    def _check_progress(self) -> None:
        """All is gone that lies before what anybody needs."""
        needed = [min([group.last, *group.pending]) for group in self._counted()]
        if needed:
            assert not {one for one in self.entries if one < min([*needed, (self.young_ms, 0)])}

    @precondition(lambda self: self.groups)
    @rule()
    def compare(self) -> None:
        """What we think is pending is pending."""
        for name, group in self.groups.items():
            rows = self.kept.run("XPENDING", self.stream, name, "-", "+", 1000)
            assert {order_of(row[0]) for row in rows} == group.pending


SETTINGS = settings(
    max_examples=500,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[type[Streams]]:
    with RedisServer(search=False, arguments=("--stream-node-max-entries", "4")) as server:
        client = raw_client(server)
        yield type("Machine", (Streams,), {"server": server, "raw": client})
        client.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runs", [60, pytest.param(500, marks=pytest.mark.more)])
def test_nothing_is_trimmed_that_anybody_still_needs(machine: type[Streams], runs: int) -> None:
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=runs))


CONTROLS: dict[str, Any] = {
    "MAXLEN": by_length,
    "a bound computed on our side": by_a_bound_of_our_own,
    "only the last delivered": only_last_delivered,
    "only the oldest pending": only_oldest_pending,
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("control", CONTROLS)
def test_naive_ways_to_trim_are_caught(machine: type[Streams], control: str) -> None:
    naive = type("Naive", (machine,), {"retain": staticmethod(CONTROLS[control]), "checks_progress": False})
    quick = settings(
        SETTINGS, max_examples=2_000, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False
    )
    with pytest.raises(AssertionError, match="somebody still needs"):
        run_state_machine_as_test(naive, settings=quick)
