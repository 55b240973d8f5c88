from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.decide import abandoned, is_abandoned, last_id_worth_reading
from monitor.entry_key import EMPTY_ID, LONG_ID, LONGEST_ID_BYTES, NO_ID, hash_id
from monitor.pending import LAST, Summary

MIN_IDLE_MS = 10_000
NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(("off_by_ms", "verdict"), [(-1, False), (0, True), (1, True)])
def test_an_entry_is_abandoned_from_the_minimum_idle_time_on(off_by_ms: int, verdict: bool) -> None:
    assert is_abandoned(MIN_IDLE_MS + off_by_ms, MIN_IDLE_MS) is verdict


def test_a_released_entry_is_abandoned_at_once() -> None:
    """XNACK (Redis 8.8) shows an idle time of -1 and no consumer."""
    assert is_abandoned(-1, MIN_IDLE_MS)
    (entry,) = abandoned([[b"1-0", b"", -1, 3]], MIN_IDLE_MS)
    assert (entry.consumer, entry.deliveries) == (b"", 3)


@pytest.mark.parametrize("idle_ms", [0, 1])
def test_with_a_minimum_idle_time_of_zero_every_pending_entry_is_abandoned(idle_ms: int) -> None:
    assert is_abandoned(idle_ms, 0)


def test_the_abandoned_rows_of_a_page_keep_their_order() -> None:
    rows: list[list[bytes | int]] = [[b"%d-0" % n, b"c", MIN_IDLE_MS * (n % 2), 1] for n in range(6)]
    assert [entry.entry_id for entry in abandoned(rows, MIN_IDLE_MS)] == [b"1-0", b"3-0", b"5-0"]


@pytest.mark.parametrize(
    ("greatest_ms", "end"),
    [
        (NOW_MS - 1, b"%d" % (NOW_MS - MIN_IDLE_MS)),
        (NOW_MS, b"%d" % (NOW_MS - MIN_IDLE_MS)),
        (NOW_MS + 1, LAST),
    ],
)
def test_the_walk_ends_where_entries_are_too_young_unless_an_id_lies_ahead_of_the_clock(
    greatest_ms: int, end: bytes
) -> None:
    summary = Summary(1, b"1-0", b"%d-7" % greatest_ms)
    assert last_id_worth_reading(summary, NOW_MS, MIN_IDLE_MS) == end


def test_a_minimum_idle_time_longer_than_the_clock_reads_is_no_negative_id() -> None:
    assert last_id_worth_reading(Summary(1, b"1-0", b"1-0"), 5, MIN_IDLE_MS) == b"0"


def test_an_empty_list_is_read_to_the_end() -> None:
    assert last_id_worth_reading(Summary(0, None, None), NOW_MS, MIN_IDLE_MS) == LAST


@pytest.mark.parametrize(
    ("fields", "id_fields", "expected"),
    [
        ([b"id", b"1"], [b"id"], b"1"),
        ([b"id", b"1", b"id", b"2"], [b"id"], b"2"),
        ([b"id", b"1", b"id", b""], [b"id"], EMPTY_ID),
        ([b"id", b"", b"id", b"2"], [b"id"], b"2"),
        ([b"ID", b"1"], [b"id"], NO_ID),
        ([b"id", b""], [b"id"], EMPTY_ID),
        ([b"id", b"a:b%c"], [b"id"], b"a:b%c"),
        ([b"id", b"\xff\x00\r\n"], [b"id"], b"\xff\x00\r\n"),
        ([b"b", b"2", b"a", b"1"], [b"a", b"b"], b"1:2"),
        ([b"a", b"1:2", b"b", b"3%"], [b"a", b"b"], b"1%3A2:3%25"),
        ([b"a", b"1"], [b"a", b"b"], NO_ID),
        ([b"a", b"", b"b", b"1"], [b"a", b"b"], EMPTY_ID),
        ([b"a", b""], [b"a", b"b"], None),
    ],
)
def test_the_hash_id_of_an_entry(fields: list[bytes], id_fields: list[bytes], expected: bytes | str | None) -> None:
    key_id, fault = hash_id(fields, id_fields)
    assert (key_id or fault) == expected if expected else fault in (NO_ID, EMPTY_ID)


@pytest.mark.parametrize(("off_by", "fault"), [(-1, None), (0, None), (1, LONG_ID)])
def test_an_id_of_up_to_a_kilobyte_is_stored_and_a_longer_one_is_at_fault(off_by: int, fault: str | None) -> None:
    assert hash_id([b"id", b"x" * (LONGEST_ID_BYTES + off_by)], [b"id"])[1] == fault


def test_the_length_of_an_id_is_taken_after_it_was_escaped() -> None:
    assert hash_id([b"a", b":" * 400, b"b", b"1"], [b"a", b"b"])[1] == LONG_ID
    assert hash_id([b"a", b":" * 340, b"b", b"1"], [b"a", b"b"])[1] is None


@given(
    st.sets(st.tuples(st.text(":%23A", min_size=1, max_size=4), st.text(":%23A", min_size=1, max_size=4)), max_size=40)
)
def test_no_two_ids_of_several_fields_collide(ids: set[tuple[str, str]]) -> None:
    keys = [hash_id([b"a", a.encode(), b"b", b.encode()], [b"a", b"b"])[0] for a, b in ids]
    assert len(set(keys)) == len(ids)


def test_joining_without_escaping_would_collide() -> None:
    """The control of the test above."""
    values = [(b"1:2", b"3"), (b"1", b"2:3")]
    assert len({b":".join(value) for value in values}) == 1
    keys = {hash_id(list(itertools.chain(*zip([b"a", b"b"], value, strict=True))), [b"a", b"b"])[0] for value in values}
    assert len(keys) == 2
