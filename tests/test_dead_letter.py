from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import monitor.scripts
from monitor.dead_letter import ATTEMPTS_KEPT_SEC, PROVENANCE, read_letter
from shared.redis_client import Argument, Command, Reply, ServerLink
from shared.settings import Settings
from tests import naive
from tests.checks import entries_of, lost
from tests.conftest import Scene, Sweeper, wire

CERTAIN = {
    "no id field": lambda scene: scene.add("text", "no id"),
    "empty id": lambda scene: scene.add("id", "", "text", "x"),
    "id over 1024 bytes": lambda scene: scene.add("id", b"x" * 1025),
    "hash key holds another type": lambda scene: _wrong_type(scene),
}


def _wrong_type(scene: Scene) -> bytes:
    scene.raw.execute_command("RPUSH", scene.prefix + "list", "x")
    return scene.add("id", "list", "text", "x")


def provenance_of(letter: list[Any]) -> dict[str, bytes]:
    """The leading pairs, by position."""
    pairs = letter[1][: 2 * len(PROVENANCE)]
    return {name.decode(): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


def fields_of(letter: list[Any]) -> list[bytes]:
    fields: list[bytes] = letter[1][2 * len(PROVENANCE) :]
    return fields


# --- at once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", CERTAIN)
async def test_a_certain_fault_is_dead_lettered_at_once_and_only_once(
    scene: Scene, sweep: Sweeper, mode: str, reason: str
) -> None:
    entry_id = CERTAIN[reason](scene)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.dead_lettered, report.failed, report.error, scene.pending()) == (1, 0, None, 0)
    assert report.reasons[f"dead_lettered: {reason}"].entry_ids == (entry_id.decode(),)
    (letter,) = scene.dead_letters()
    assert provenance_of(letter)["reason"] == reason.encode()
    again = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (again.candidates, len(scene.dead_letters())) == (0, 1)
    assert scene.raw.execute_command("XLEN", scene.stream) == 1, "the source stream is left as it is"


async def test_the_provenance_is_read_by_position_and_says_where_the_entry_came_from(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    entry_id = scene.add("stream", "mine", "reason", "mine", "entry_id", "mine")
    scene.deliver()
    scene.age([entry_id], consumer="pod-7", deliveries=4)
    before_ms = _server_ms(scene)
    await sweep(scene.settings(SETTLE_MODE=mode))
    (letter,) = scene.dead_letters()
    assert letter[1][: 2 * len(PROVENANCE) : 2] == [name.encode() for name in PROVENANCE]
    found = provenance_of(letter)
    assert before_ms <= int(found.pop("dead_at_ms")) <= _server_ms(scene)
    assert found == {
        "stream": scene.stream.encode(),
        "group": scene.group.encode(),
        "entry_id": entry_id,
        "reason": b"no id field",
        "deliveries": b"4",
        "last_consumer": b"pod-7",
    }
    assert fields_of(letter) == [b"stream", b"mine", b"reason", b"mine", b"entry_id", b"mine"]


def _server_ms(scene: Scene) -> int:
    seconds, microseconds = scene.raw.execute_command("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


TWICE = [b"text", b"first", b"text", b"second", b"\xff\x00", b"\x80\r\n", b"", b"", b"text", b"first"]


async def test_a_dead_letter_holds_the_fields_byte_for_byte_those_held_twice_too(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add(*TWICE)
    scene.abandon()
    await sweep(scene.settings(SETTLE_MODE=mode))
    assert fields_of(scene.dead_letters()[0]) == TWICE


def test_fields_that_go_through_a_dict_lose_what_is_held_twice() -> None:
    """Control of the test above."""
    assert naive.store_pairs_as_a_dict(TWICE) != TWICE


@pytest.mark.parametrize("fields", [5000, 9000])
async def test_an_entry_of_thousands_of_fields_is_dead_lettered_whole(
    scene: Scene, sweep: Sweeper, mode: str, fields: int
) -> None:
    pairs = [part for number in range(fields) for part in (b"f%d" % (number % 4000), b"v%d" % number)]
    scene.add(*pairs)
    scene.add("id", "behind")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.dead_lettered, report.processed) == (1, 1)
    assert fields_of(scene.dead_letters()[0]) == pairs


async def test_large_entries_are_dead_lettered_a_few_at_a_time(scene: Scene, sweep: Sweeper, mode: str) -> None:
    for number in range(20):
        scene.add("text", b"%d" % number + b"x" * 1_000_000)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    pipelined, most = janitor._link.pipelined, 0

    async def count(commands: list[Command]) -> list[Reply]:
        nonlocal most
        most = max(most, sum(command[0] == "XADD" for command in commands))
        return await pipelined(commands)

    janitor._link.pipelined = count  # type: ignore[assignment, method-assign]
    (report,) = await janitor.tick()
    assert report.dead_lettered == len(scene.dead_letters()) == 20
    assert 0 < most <= 8


async def test_nothing_is_acknowledged_before_it_is_in_the_dead_letter_stream(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add("text", "no id")
    scene.abandon()
    entries = entries_of(scene)
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    seen = wire(janitor)
    checked: list[bool] = []

    def check(command: Command) -> None:
        checked.append(not lost(scene, entries))

    seen.before = check
    (report,) = await janitor.tick()
    names = [command[0] for command in seen.commands]
    assert names.index("XADD") < names.index("XACK")
    assert (report.dead_lettered, all(checked)) == (1, True)


async def test_acknowledging_before_adding_would_be_caught(scene: Scene) -> None:
    """Control of the test above: the same check between the two commands."""
    entry_id = scene.add("text", "no id")
    scene.abandon()
    entries = entries_of(scene)
    scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)
    assert lost(scene, entries) == [entry_id]


async def test_a_crash_between_adding_and_acknowledging_leaves_the_entry_in_both(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    """At least once: the next sweep adds it again."""
    scene.add("text", "no id")
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    seen = wire(janitor)

    class Crash(BaseException):
        pass

    def crash(command: Command) -> None:
        if command[0] == "XACK":
            raise Crash

    seen.before = crash
    with pytest.raises(Crash):
        await janitor.tick()
    assert (scene.pending(), len(scene.dead_letters())) == (1, 1)
    scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
    await sweep(scene.settings(SETTLE_MODE=mode))
    assert (scene.pending(), len(scene.dead_letters())) == (0, 2)


# --- off, elsewhere, refused --------------------------------------------------------------------------------------------


async def test_without_a_dead_letter_stream_the_entries_stay_pending_and_the_rest_goes_on(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    bad = [add(scene) for add in CERTAIN.values()]
    scene.add_tweets(5)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, DEAD_LETTER_STREAM="off"))
    assert (report.failed, report.processed, report.dead_lettered, report.error) == (4, 5, 0, None)
    assert [row[0] for row in scene.pending_rows()] == bad
    assert set(report.reasons) == {f"failed: {reason}" for reason in CERTAIN}
    assert not scene.raw.execute_command("EXISTS", f"{scene.stream}:dead", "off", "None:attempts")


async def test_the_dead_letter_stream_can_have_another_name(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("text", "no id")
    scene.abandon()
    name = scene.stream + "-quarantine"
    report = await sweep(scene.settings(SETTLE_MODE=mode, DEAD_LETTER_STREAM=name))
    assert (report.dead_lettered, scene.raw.execute_command("XLEN", name)) == (1, 1)


async def test_a_dead_letter_stream_of_another_type_leaves_entries_pending_and_stops_no_other(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.raw.execute_command("SET", f"{scene.stream}:dead", "a string")
    bad = scene.add("text", "no id")
    scene.add_tweets(300)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="50"))
    assert (report.failed, report.processed, report.dead_lettered) == (1, 300, 0)
    reason = "failed: no id field, and the dead-letter stream refused it (WRONGTYPE)"
    assert report.reasons[reason].entry_ids == (bad.decode(),)
    assert scene.pending() == 1
    scene.raw.execute_command("DEL", f"{scene.stream}:dead")


async def test_an_entry_deleted_before_it_could_be_dead_lettered_is_not_called_dead_lettered(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    entry_id = scene.add("text", "no id")
    scene.abandon()
    janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode))
    seen = wire(janitor)

    def delete(command: Command) -> None:
        if command[0] == "TIME" and seen.sent("TIME"):
            scene.raw.execute_command("XDEL", scene.stream, entry_id)

    seen.before = delete
    (report,) = await janitor.tick()
    assert (report.failed, report.dead_lettered, scene.dead_letters()) == (1, 0, [])


async def test_the_dead_letter_stream_is_never_trimmed(scene: Scene, sweep: Sweeper) -> None:
    for _ in range(300):
        scene.add("text", "no id")
    scene.abandon()
    janitor = sweep.janitor(scene.settings(DEAD_LETTER_BRAKE="off"))
    seen = wire(janitor)
    await janitor.tick()
    assert len(scene.dead_letters()) == 300
    assert not [command for command in seen.commands if {"MAXLEN", "MINID", "XTRIM"} & set(map(str, command))]


# --- unknown errors -----------------------------------------------------------------------------------------------------


@pytest.fixture
def curse(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the server refuses each HSET of a key with ``cursed`` in it with an error that no table names.

    A real error of the real server: the HSET goes out without its fields ("ERR wrong number of arguments").
    """

    def begin() -> None:
        text = monitor.scripts._text
        marker = "local function write(key, fields)\n"
        cursed = "  if string.find(key, 'cursed', 1, true) then return redis.pcall('HSET', key) end\n"
        assert marker in text("store.lua")
        monkeypatch.setattr(monitor.scripts, "_text", lambda name: text(name).replace(marker, marker + cursed))
        pipelined = ServerLink.pipelined

        async def spoil(link: ServerLink, commands: list[Command]) -> list[Reply]:
            return await pipelined(link, [_spoilt(command) for command in commands])

        monkeypatch.setattr(ServerLink, "pipelined", spoil)

    return begin


def _spoilt(command: Command) -> Command:
    key: Argument = command[1] if len(command) > 1 else ""
    return command[:2] if command[0] == "HSET" and isinstance(key, bytes) and b"cursed" in key else command


def _age_all(scene: Scene) -> None:
    scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer"])
async def test_an_unknown_error_is_dead_lettered_at_exactly_max_attempts(
    scene: Scene, sweep: Sweeper, mode: str, curse: Callable[[], None], on_conflict: str
) -> None:
    curse()
    entry_id = scene.add("id", "cursed", "text", "x")
    scene.add_tweets(3)
    scene.abandon()
    settings = scene.settings(SETTLE_MODE=mode, MAX_ATTEMPTS="3", ON_CONFLICT=on_conflict)
    for attempt in (1, 2):
        report = await sweep(settings)
        assert (report.failed, report.dead_lettered, report.error) == (1, 0, None)
        assert report.reasons["failed: unknown error ERR"].entry_ids == (entry_id.decode(),)
        assert scene.raw.execute_command("HGET", f"{scene.stream}:dead:attempts", entry_id) == b"%d" % attempt
        _age_all(scene)
    report = await sweep(settings)
    assert (report.failed, report.dead_lettered, scene.pending()) == (0, 1, 0)
    assert provenance_of(scene.dead_letters()[0])["reason"] == b"unknown error ERR"
    assert fields_of(scene.dead_letters()[0]) == [b"id", b"cursed", b"text", b"x"]
    assert not scene.raw.execute_command("HEXISTS", f"{scene.stream}:dead:attempts", entry_id)


async def test_the_count_of_attempts_does_not_stay_for_ever(
    scene: Scene, sweep: Sweeper, curse: Callable[[], None]
) -> None:
    curse()
    scene.add("id", "cursed")
    scene.abandon()
    await sweep(scene.settings())
    ttl = scene.raw.execute_command("TTL", f"{scene.stream}:dead:attempts")
    assert ATTEMPTS_KEPT_SEC - 5 <= ttl <= ATTEMPTS_KEPT_SEC


async def test_deliveries_to_consumers_are_no_attempts(
    scene: Scene, sweep: Sweeper, mode: str, curse: Callable[[], None]
) -> None:
    curse()
    scene.add("id", "cursed")
    ids = scene.deliver()
    scene.age(ids, deliveries=500)
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.failed, report.dead_lettered) == (1, 0)
    assert scene.pending_rows()[0][3] == 500, "nor does an attempt of ours count as a delivery"


async def test_twenty_ticks_of_full_memory_and_then_one_unknown_error_make_no_dead_letter(
    own_scene: Scene, sweep: Sweeper, mode: str, curse: Callable[[], None]
) -> None:
    own_scene.add("id", "cursed")
    (entry_id,) = own_scene.abandon()
    settings = own_scene.settings(SETTLE_MODE=mode)
    await _full_memory_for_twenty_ticks(own_scene, sweep, settings)
    curse()
    report = await sweep(settings)
    assert (report.failed, report.dead_lettered, own_scene.pending()) == (1, 0, 1)
    assert own_scene.raw.execute_command("HGET", f"{own_scene.stream}:dead:attempts", entry_id) == b"1"
    assert own_scene.pending_rows()[0][3] == 1


async def _full_memory_for_twenty_ticks(scene: Scene, sweep: Sweeper, settings: Settings) -> None:
    scene.raw.execute_command("CONFIG", "SET", "maxmemory", 1)
    janitor = sweep.janitor(settings)
    for _ in range(20):
        (report,) = await janitor.tick()
        assert (report.failed, report.dead_lettered) == (1, 0)
        assert "out of memory" in str(report.error)
        _age_all(scene)
    scene.raw.execute_command("CONFIG", "SET", "maxmemory", 0)


def test_a_delivery_count_takes_ticks_of_full_memory_for_attempts(own_scene: Scene) -> None:
    """Control of the test above: the count that most projects use would quarantine the healthy entry."""
    own_scene.add("id", "1")
    ids = own_scene.abandon()
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", 1)
    for _ in range(20):
        due = naive.dead_letter_by_delivery_count(own_scene, ids, most=10)
    assert due == ids


@pytest.mark.parametrize("command", ["HSET"])
async def test_a_command_that_the_server_does_not_have_is_not_the_entrys_fault(
    sweep: Sweeper, mode: str, command: str
) -> None:
    from demo.redis import RedisServer
    from tests.conftest import new_scene, raw_client

    with RedisServer(search=False, arguments=("--rename-command", command, "")) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, INDEX_SCHEMA="off")
        scene.add_tweets(3)
        scene.abandon()
        report = await sweep(scene.settings(SETTLE_MODE=mode, MAX_ATTEMPTS="1"))
        assert (report.dead_lettered, scene.pending()) == (0, 3)
        assert report.error
        client.close()


# --- read back ------------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_reads_back_as_what_it_was(scene: Scene, sweep: Sweeper) -> None:
    entry_id = scene.add(*TWICE)
    scene.abandon()
    await sweep(scene.settings())
    (row,) = scene.dead_letters()
    letter = read_letter(row[0], row[1])  # type: ignore[arg-type]
    assert letter is not None
    assert (letter.entry_id, letter.fields, letter.reason) == (entry_id, TWICE, b"no id field")
    assert (letter.deliveries, letter.last_consumer) == (1, b"crashed")


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [b"id", b"1"],
        [part for name in PROVENANCE for part in (name.encode(), b"x")],
        [part for name in reversed(PROVENANCE) for part in (name.encode(), b"1-1")],
    ],
)
def test_what_somebody_else_wrote_to_the_dead_letter_stream_is_no_dead_letter(pairs: list[bytes]) -> None:
    assert read_letter(b"1-0", pairs) is None


async def test_no_reason_holds_anything_of_the_entry(
    scene: Scene, sweep: Sweeper, mode: str, curse: Callable[[], None]
) -> None:
    curse()
    scene.add("id", "cursed-canary", "text", "canary")
    scene.raw.execute_command("SET", scene.prefix + "canary", "canary")
    scene.add("id", "canary", "text", "canary")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, MAX_ATTEMPTS="1"))
    assert report.dead_lettered == 2
    assert "canary" not in str(report)
    assert not any(re.search(rb"canary", provenance_of(letter)["reason"]) for letter in scene.dead_letters())
