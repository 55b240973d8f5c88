"""The identity rule stands twice, in Python and in Lua: both give the same answer for every entry."""

from __future__ import annotations

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import scripts
from monitor.entry_key import LONGEST_ID_BYTES, hash_id

DRIVER = """
use_id_fields(ARGV[1])
local fields = {}
for i = 2, #ARGV do fields[i - 1] = ARGV[i] end
read_names(fields)
local id, fault = identity()
return { id or false, fault or false }
"""
LUA = scripts._text("entry_key.lua") + DRIVER
NAMES = st.sampled_from([b"a", b"b", b"c", b"traceparent", b"\xff"])
VALUES = st.one_of(
    st.sampled_from([b"", b":", b"%", b"%3A", b"a:b", b"\xff\x00\n"]),
    st.binary(max_size=5),
    st.integers(LONGEST_ID_BYTES - 3, LONGEST_ID_BYTES + 1).map(lambda size: b"x" * size),
)
ID_FIELDS = st.lists(st.sampled_from(["a", "b", "c", "traceparent", "ä b"]), min_size=1, max_size=3, unique=True)


def by_lua(
    raw: redis.Redis, fields: list[bytes], id_fields: list[str], lua: str = LUA
) -> tuple[bytes | None, str | None]:
    key_id, fault = raw.execute_command("EVAL", lua, 0, ",".join(id_fields), *fields)
    return key_id, fault and fault.decode()


def by_python(fields: list[bytes], id_fields: list[str]) -> tuple[bytes | None, str | None]:
    return hash_id(fields, [name.encode() for name in id_fields])


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
