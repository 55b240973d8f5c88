"""One rule of what a requeued entry holds, in Python and in Lua: the same answers for anything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.requeued import count_of, counted_anew, requeued, without
from monitor.scripts import _text
from tests.conftest import Scene

NAMES = st.sampled_from([b"requeue_count", b"original_entry_id", b"id", b"traceparent", b"", b"\xff"])
VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"0",
            b"4",
            b"5",
            b"6",
            b"00004",
            b"-1",
            b"1.0",
            b"1e1",
            b" 3",
            b"9" * 14,
            b"9" * 15,
            b"9" * 16,
            b"9" * 40,
        ]
    ),
    st.binary(max_size=8),
    st.integers(0, 10**18).map(lambda number: b"%d" % number),
)
PAIRS = st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=6)


def only_the_rule() -> str:
    """The functions of requeue.lua that decide, alone: `requeued` over ARGV."""
    text = _text("requeue.lua")
    first, last = text.index("local COUNT, ORIGINAL"), text.index("local wide")
    rule = text[text.index("-- The values of the special fields") : text.index("-- False if the target refuses")]
    return (
        text[first:last] + "local most_requeues = tonumber(ARGV[1])\nlocal function note_trace() end\n" + rule
        + "local fields = {}\nfor i = 3, #ARGV do fields[i - 2] = ARGV[i] end\n"
        + "return requeued(ARGV[2], fields) or false"
    )  # fmt: skip


@pytest.mark.parametrize("most", [0, 5])
def test_lua_and_python_agree(scene: Scene, most: int) -> None:
    script = only_the_rule()

    @settings(max_examples=300, deadline=None)
    @given(PAIRS)
    def agree(pairs: list[tuple[bytes, bytes]]) -> None:
        fields = [part for pair in pairs for part in pair]
        by_lua = scene.raw.execute_command("EVAL", script, 0, most, b"7-0", *fields)
        assert (by_lua or None) == requeued(b"7-0", fields, most)

    agree()


@given(PAIRS)
def test_nothing_but_our_own_two_fields_changes(pairs: list[tuple[bytes, bytes]]) -> None:
    fields = [part for pair in pairs for part in pair]
    made = requeued(b"7-0", fields, 0)
    assert made is not None
    rest = without(b"original_entry_id", without(b"requeue_count", fields))
    assert without(b"original_entry_id", without(b"requeue_count", made)) == rest
    assert made.count(b"requeue_count") - rest.count(b"requeue_count") >= 1
    assert count_of(made) == count_of(fields) + 1 or count_of(fields) >= 10**15


def test_the_first_id_stays_over_any_number_of_trips() -> None:
    fields = [b"id", b"1"]
    for trip in range(1, 6):
        made = requeued(b"%d-0" % trip, fields, 5)
        assert made == [b"id", b"1", b"original_entry_id", b"1-0", b"requeue_count", b"%d" % trip]
        fields = made
    assert requeued(b"6-0", fields, 5) is None
    assert counted_anew(fields) == [b"id", b"1", b"original_entry_id", b"1-0"]
