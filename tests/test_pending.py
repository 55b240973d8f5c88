from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.pending import FIRST, LAST, following, milliseconds_of, order_of, preceding, read_page, summary_of
from shared.redis_client import RedisLink
from tests.conftest import DAY_MS, Scene, Sweeper, wire

GREATEST = 2**64 - 1


@pytest.mark.parametrize(
    ("entry_id", "next_id"),
    [
        (b"5-1", b"5-2"),
        (b"5-%d" % (GREATEST - 1), b"5-%d" % GREATEST),
        (b"5-%d" % GREATEST, b"6-0"),
        (b"0-1", b"0-2"),
    ],
)
def test_following_and_preceding_are_each_others_inverse(entry_id: bytes, next_id: bytes) -> None:
    assert following(entry_id) == next_id
    assert preceding(next_id) == entry_id


def test_nothing_precedes_the_smallest_id() -> None:
    assert preceding(b"0-0") == b"0-0"


@given(st.integers(0, 2**40), st.integers(0, GREATEST))
def test_no_id_lies_between_one_and_its_following(milliseconds: int, sequence: int) -> None:
    entry_id = b"%d-%d" % (milliseconds, sequence)
    assert order_of(entry_id) < order_of(following(entry_id))
    assert preceding(following(entry_id)) == entry_id


def test_ids_sort_as_numbers_and_a_bare_time_is_its_first_id() -> None:
    assert order_of(b"9-10") > order_of(b"9-9") > order_of(b"9") == order_of(b"9-0")
    assert milliseconds_of(b"1700-3") == 1700


def test_the_summary_of_an_empty_list_has_no_ids(scene: Scene) -> None:
    assert summary_of(scene.raw.execute_command("XPENDING", scene.stream, scene.group)) == (0, None, None)


async def test_pages_follow_each_other_without_a_gap_or_an_entry_twice(scene: Scene, link: RedisLink) -> None:
    scene.add_tweets(100)
    ids = scene.deliver()
    for acknowledged in ids[5:50:3]:
        scene.raw.execute_command("XACK", scene.stream, scene.group, acknowledged)
    read, first = [], FIRST
    while page := await read_page(link, scene.stream, scene.group, first, LAST, 7):
        assert len(page) <= 7
        read += [row[0] for row in page]
        first = following(page[-1][0])  # type: ignore[arg-type]
    assert read == [row[0] for row in scene.pending_rows()]


@pytest.mark.parametrize("page_size", [1, 10, 99, 100, 101])
async def test_every_abandoned_entry_is_found_whatever_the_page_size(
    scene: Scene, sweep: Sweeper, mode: str, page_size: int
) -> None:
    scene.add_tweets(100)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, PAGE_SIZE=str(page_size)))
    assert (report.processed, scene.pending(), len(scene.hashes())) == (100, 0, 100)


async def test_a_page_is_never_longer_than_page_size(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(100)
    scene.abandon()
    janitor = sweep.janitor(scene.settings(PAGE_SIZE="10"))
    seen = wire(janitor)
    await janitor.tick()
    pages = [command for command in seen.sent("XPENDING") if len(command) > 3]
    assert len(pages) == 11
    assert {command[-1] for command in pages} == {10}


async def test_acknowledged_entries_between_pending_ones_change_nothing(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(100)
    ids = scene.abandon()
    for at, entry_id in enumerate(ids):
        if at % 7:
            scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)
    report = await sweep(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="10"))
    assert report.candidates == report.processed == 15
    assert len(scene.hashes()) == 15


async def test_candidates_between_young_entries_are_found_and_the_young_ones_left(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(100)
    ids = scene.deliver()
    scene.age(ids[::3], idle_ms=60_000)
    report = await sweep(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="10"))
    assert report.candidates == report.processed == len(ids[::3])
    assert [row[0] for row in scene.pending_rows()] == [entry_id for at, entry_id in enumerate(ids) if at % 3]
    assert {row[1] for row in scene.pending_rows()} == {b"crashed"}


async def test_fresh_entries_are_not_even_read(scene: Scene, sweep: Sweeper) -> None:
    (old,) = [scene.add("id", "old")]
    for number in range(50):
        scene.raw.execute_command("XADD", scene.stream, "*", "id", number)
    scene.deliver()
    scene.age([old])
    janitor = sweep.janitor(scene.settings(PAGE_SIZE="10"))
    seen = wire(janitor)
    rows: list[object] = []

    def note(command: tuple[object, ...], reply: list[object]) -> None:
        if command[0] == "XPENDING" and len(command) > 3:
            rows.extend(reply)

    seen.after = note  # type: ignore[assignment]
    (report,) = await janitor.tick()
    assert (report.processed, report.pending, len(rows)) == (1, 51, 1)


async def test_a_walk_to_the_very_end_would_read_the_fresh_entries_too(scene: Scene, link: RedisLink) -> None:
    """The control of the test above."""
    for number in range(50):
        scene.raw.execute_command("XADD", scene.stream, "*", "id", number)
    scene.deliver()
    assert len(await read_page(link, scene.stream, scene.group, FIRST, LAST, 1000)) == 50


@pytest.mark.parametrize("entry_id", ["5-1", "0-1", "1-18446744073709551615"])
async def test_entries_whose_ids_are_no_times_are_found(scene: Scene, sweep: Sweeper, mode: str, entry_id: str) -> None:
    scene.add("id", "1", entry_id=entry_id)
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert (report.processed, scene.hash("1")) == (1, {b"id": b"1"})


async def test_with_an_id_ahead_of_the_clock_the_list_is_read_to_its_end(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    now_ms = int(scene.raw.execute_command("TIME")[0]) * 1000
    scene.add("id", "past")
    scene.add("id", "tomorrow", entry_id=f"{now_ms + DAY_MS}-0")
    scene.add("id", "last", entry_id=f"{GREATEST}-{GREATEST}")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, PAGE_SIZE="1"))
    assert (report.processed, report.complete, scene.pending()) == (3, True, 0)


async def test_the_age_of_the_oldest_pending_entry_is_by_the_servers_clock(scene: Scene, sweep: Sweeper) -> None:
    seconds = int(scene.raw.execute_command("TIME")[0])
    scene.add("id", "1", entry_id=f"{(seconds - 3600) * 1000}-0")
    scene.deliver()
    report = await sweep(scene.settings())
    assert report.oldest_pending_age_s == pytest.approx(3600, abs=5)
    assert (report.pending, report.candidates) == (1, 0)


async def test_min_idle_of_a_day_takes_up_only_what_was_idle_for_a_day(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("id", "1", entry_id="1-1")
    scene.add("id", "2", entry_id="1-2")
    first, second = scene.deliver()
    scene.age([first], idle_ms=DAY_MS + 1000)
    scene.age([second], idle_ms=DAY_MS - 60_000)
    report = await sweep(scene.settings(SETTLE_MODE=mode, MIN_IDLE_TIME_SEC=str(DAY_MS // 1000)))
    assert (report.processed, [row[0] for row in scene.pending_rows()]) == (1, [second])


async def test_a_page_size_beyond_the_settings_range_does_not_matter_to_the_walk(scene: Scene, sweep: Sweeper) -> None:
    scene.add_tweets(3)
    scene.abandon()
    report = await sweep(replace(scene.settings(), page_size=100_000))
    assert report.processed == 3
