from __future__ import annotations

from tests.conftest import Scene, Sweeper


async def test_abandoned_entries_are_stored_byte_for_byte_and_acknowledged(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add("id", "1", b"\xff\x00", b"\x80binary\r\n", "text", "")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert scene.hash("1") == {b"id": b"1", b"\xff\x00": b"\x80binary\r\n", b"text": b""}
    assert scene.pending() == 0
    assert (report.processed, report.settle_mode, report.complete, report.error) == (1, mode, True, None)


async def test_entries_younger_than_the_minimum_idle_time_are_left_alone(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    scene.add_tweets(2)
    first, second = scene.deliver()
    scene.age([first], idle_ms=60_000)
    scene.age([second], idle_ms=5_000)
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert report.candidates == report.processed == 1
    ((entry_id, consumer, _, deliveries),) = scene.pending_rows()
    assert (entry_id, consumer, deliveries) == (second, b"crashed", 1)
