"""The identity rule stands twice, in Python and in Lua: both give the same answer. Member paths are Python's alone."""

from __future__ import annotations

import json

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import scripts
from monitor.actions.store import StoreAction
from monitor.entry_key import LONGEST_ID_BYTES, EntryKey, hash_id
from monitor.outcomes import FAULTS_EXPLAINED
from shared.redis_client import ServerLink
from tests.conftest import Scene, Sweeper

DRIVER = """
use_id_fields(ARGV[1])
local fields = {}
for i = 3, #ARGV do fields[i - 2] = ARGV[i] end
read_names(fields, nil, ARGV[2])
local id, fault = identity()
return { id or false, fault or false }
"""
LUA = scripts._text("entry_key.lua") + DRIVER
NAMES = st.sampled_from([b"a", b"b", b"c", b"traceparent", b"\xff", b"@entry"])
VALUES = st.one_of(
    st.sampled_from([b"", b":", b"%", b"%3A", b"a:b", b"\xff\x00\n"]),
    st.binary(max_size=5),
    st.integers(LONGEST_ID_BYTES - 3, LONGEST_ID_BYTES + 1).map(lambda size: b"x" * size),
)
ID_FIELDS = st.lists(
    st.sampled_from(["a", "b", "c", "traceparent", "ä b", "@entry"]), min_size=1, max_size=3, unique=True
)
ENTRY_ID = b"1700000000000-7"


def by_lua(
    raw: redis.Redis, fields: list[bytes], id_fields: list[str], lua: str = LUA
) -> tuple[bytes | None, str | None]:
    key_id, fault = raw.execute_command("EVAL", lua, 0, ",".join(id_fields), ENTRY_ID, *fields)
    return key_id, fault and fault.decode()


def by_python(fields: list[bytes], id_fields: list[str]) -> tuple[bytes | None, str | None]:
    return hash_id(fields, [name.encode() for name in id_fields], ENTRY_ID)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), ID_FIELDS)
def test_lua_and_python_name_the_same_hash_and_the_same_fault(
    raw: redis.Redis, pairs: list[tuple[bytes, bytes]], id_fields: list[str]
) -> None:
    fields = [part for pair in pairs for part in pair]
    assert by_lua(raw, fields, id_fields) == by_python(fields, id_fields)


def test_a_missing_field_comes_before_an_empty_one(raw: redis.Redis) -> None:
    assert by_lua(raw, [b"a", b""], ["a", "b"]) == by_python([b"a", b""], ["a", "b"]) == (None, "no_id")


def test_a_rule_that_differs_is_caught(raw: redis.Redis) -> None:
    """Control: the rule as it was, which met an empty field before it looked for the others."""
    wrong = LUA.replace("is_empty = is_empty or values[i] == ''", "if values[i] == '' then return nil, 'empty_id' end")
    assert by_lua(raw, [b"a", b""], ["a", "b"], wrong) != by_python([b"a", b""], ["a", "b"])


# --- @entry ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id_fields", "key_id"), [("@entry", b"{}"), ("user,@entry", b"a%3Ab:{}"), ("@entry,user", b"{}:a%3Ab")]
)
async def test_the_entrys_own_id_is_its_key(
    scene: Scene, sweep: Sweeper, mode: str, id_fields: str, key_id: bytes
) -> None:
    entry_id = scene.add("user", "a:b", "@entry", "a field of that name is no id")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ID_FIELDS=id_fields))
    assert (report.processed, report.unsearchable, scene.pending()) == (1, 0, 0)
    held = scene.hash(key_id.replace(b"{}", entry_id))
    assert held == {b"user": b"a:b", b"@entry": b"a field of that name is no id"}


async def test_an_entry_of_nothing_but_its_trace_context_is_stored_with_it(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    """A hash without fields there is none, and every entry has an id of its own."""
    entry_id = scene.add("traceparent", "00-0-0-0")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, ID_FIELDS="@entry"))
    assert (report.processed, scene.hash(entry_id)) == (1, {b"traceparent": b"00-0-0-0"})


# --- member paths ---------------------------------------------------------------------------------------------------------


def by_path(data: bytes | None, id_fields: str = "data$.order.id", **changes: bytes) -> bytes | str | None:
    """The id, or the fault, of an entry whose field ``data`` holds this."""
    fields = [] if data is None else [b"data", data]
    for name, value in changes.items():
        fields += [name.encode(), value]
    from shared.settings import Settings

    least = {
        "REDIS_HOST": "h", "STREAM_NAME": "s", "STREAM_CONSUMER_GROUP_NAME": "g", "MONITORING_CONSUMER_NAME": "c",
        "MIN_IDLE_TIME_SEC": "1", "HASH_PREFIX": "p:", "ID_FIELDS": id_fields,
    }  # fmt: skip
    key, fault = EntryKey(Settings.from_env(least).streams[0]).of(fields, ENTRY_ID)
    return fault if key is None else key.removeprefix(b"p:")


@pytest.mark.parametrize(
    ("value", "key_id"),
    [
        ('"42"', b"42"),
        ('"a:b"', b"a:b"),
        ('"\\u00e4"', "ä".encode()),
        ("42", b"42"),
        ("-7", b"-7"),
        ("0", b"0"),
        ("9007199254740991", b"9007199254740991"),
        ("-9007199254740991", b"-9007199254740991"),
    ],
)
def test_a_member_path_leads_to_a_string_or_a_whole_number(value: str, key_id: bytes) -> None:
    assert by_path(b'{"order": {"id": %s}}' % value.encode()) == key_id


@pytest.mark.parametrize(
    "value",
    [
        "true",
        "false",
        "null",
        "1.0",
        "1e3",
        "1E0",
        "-0.0",
        "9007199254740992",
        "-9007199254740992",
        "{}",
        "[1]",
        '"\\ud800"',
    ],
)
def test_a_member_of_another_kind_is_a_fault(value: str) -> None:
    assert by_path(b'{"order": {"id": %s}}' % value.encode()) == "bad_id"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (None, "no_id"),
        (b"{}", "no_id"),
        (b'{"order": {}}', "no_id"),
        (b'{"order": 7}', "no_id"),
        (b'[{"order": {"id": 1}}]', "no_id"),
        (b'{"order": {"id": ""}}', "empty_id"),
        (b"", "not_json_id"),
        (b"{", "not_json_id"),
        (b'{"order": {"id": NaN}}', "not_json_id"),
        (b'{"order": {"id": "\xff"}}', "not_json_id"),
        (b'\xef\xbb\xbf{"order": {"id": 1}}', "not_json_id"),
        (b"[" * 100_000, "not_json_id"),
        (b'{"order": {"id": %s}}' % (b"9" * 5000), "not_json_id"),
        (b'{"order": {"id": "%s"}}' % (b"x" * (LONGEST_ID_BYTES + 1)), "long_id"),
    ],
)
def test_what_a_path_does_not_find_is_a_fault_with_a_name(data: bytes | None, fault: str) -> None:
    assert by_path(data) == fault
    assert fault in FAULTS_EXPLAINED


def test_paths_stand_among_fields_and_the_same_rule_joins_and_escapes_them() -> None:
    data = json.dumps({"order": {"id": "a:b"}, "n": 5}).encode()
    assert by_path(data, "user,data$.order.id,@entry,data$.n", user=b"1%") == b"1%25:a%3Ab:" + ENTRY_ID + b":5"
    assert by_path(b"{", "user,data$.order.id", user=b"") == "empty_id", "a missing and an empty id come first"
    assert by_path(b"{", "user,data$.order.id") == "no_id"


def test_a_field_that_is_called_like_the_path_is_not_read() -> None:
    assert by_path(b"{}", **{"data$.order.id": b"5"}) == "no_id"


async def test_a_path_forces_gather_which_stores_and_names_faults(
    scene: Scene, sweep: Sweeper, link: ServerLink
) -> None:
    scene.add("data", '{"order": {"id": 7}}')
    scene.add("data", '{"order": {"id": 1.0}}')
    scene.abandon()
    settings = scene.settings(ID_FIELDS="data$.order.id")
    mode = await StoreAction.mode_of(link, settings.streams[0])
    assert (mode.name, mode.asked_by) == ("gather", "ID_FIELDS")
    assert "data$.order.id" in mode.reason
    report = await sweep(settings)
    assert (report.settle_mode, report.processed, report.dead_lettered) == ("gather", 1, 1)
    assert scene.hash("7") == {b"data": b'{"order": {"id": 7}}'}
