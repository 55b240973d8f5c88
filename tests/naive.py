"""The wrong ways: each is a small function that somebody has shipped, for the tests' negative controls.

A safety test runs one of these through the same check as the janitor and has to catch it, or it proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis

from tests.conftest import Scene


def _read(scene: Scene, entry_id: bytes) -> list[bytes]:
    fields: list[bytes] = scene.raw.execute_command("XRANGE", scene.stream, entry_id, entry_id)[0][1]
    return fields


def _key(scene: Scene, fields: Sequence[bytes]) -> bytes:
    return scene.prefix.encode() + dict(zip(fields[::2], fields[1::2], strict=True)).get(b"id", b"")


def acknowledge_then_store(scene: Scene, ids: Sequence[bytes]) -> None:
    """Acknowledges before it writes; a write that fails afterwards has lost the entry."""
    for entry_id in ids:
        fields = _read(scene, entry_id)
        scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)
        try:
            scene.raw.execute_command("HSET", _key(scene, fields), *fields)
        except redis.ResponseError:
            continue


def store_and_acknowledge_in_one_pipeline(scene: Scene, ids: Sequence[bytes]) -> None:
    """The XACK runs although the HSET before it failed; MULTI makes no difference."""
    pipeline = scene.raw.pipeline(transaction=True)
    for entry_id in ids:
        fields = _read(scene, entry_id)
        pipeline.execute_command("HSET", _key(scene, fields), *fields)
        pipeline.execute_command("XACK", scene.stream, scene.group, entry_id)
    pipeline.execute(raise_on_error=False)


def acknowledge_then_requeue(scene: Scene, ids: Sequence[bytes], target: str) -> None:
    """Acknowledges before it adds; what the target refuses afterwards is lost."""
    for entry_id in ids:
        fields = _read(scene, entry_id)
        scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)
        try:
            scene.raw.execute_command("XADD", target, "*", *fields, "original_entry_id", entry_id, "requeue_count", 1)
        except redis.ResponseError:
            continue


def claim_without_min_idle(scene: Scene, ids: Sequence[bytes], consumer: str) -> list[bytes]:
    """Filters candidates by idle time, but claims without one: whoever was just as quick claims them again."""
    claimed: list[bytes] = scene.raw.execute_command("XCLAIM", scene.stream, scene.group, consumer, 0, *ids, "JUSTID")
    return claimed


def check_then_delete_consumer(scene: Scene, consumer: str, meanwhile: Callable[[], object]) -> bool:
    """Looks at what a consumer has pending, and deletes it in a second command: what it reads in between is destroyed."""
    for row in scene.raw.execute_command("XINFO", "CONSUMERS", scene.stream, scene.group):
        if row[b"name"] == consumer.encode() and row[b"pending"] == 0:
            meanwhile()
            scene.raw.execute_command("XGROUP", "DELCONSUMER", scene.stream, scene.group, consumer)
            return True
    return False


def tell_then_acknowledge(scene: Scene, ids: Sequence[bytes], channel: str) -> None:
    """Tells others of a hash while its entry may still fail to be acknowledged, or be taken back by nobody's fault."""
    for entry_id in ids:
        fields = _read(scene, entry_id)
        scene.raw.execute_command("HSET", _key(scene, fields), *fields)
        scene.raw.execute_command("PUBLISH", channel, b'{"keys": ["%s"]}' % _key(scene, fields))
        scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)


def store_without_guard(scene: Scene, entry_id: bytes) -> None:
    """Writes whatever the entry holds, also over what a newer entry stored."""
    fields = _read(scene, entry_id)
    scene.raw.execute_command("HSET", _key(scene, fields), *fields)
    scene.raw.execute_command("XACK", scene.stream, scene.group, entry_id)


def dead_letter_by_delivery_count(scene: Scene, ids: Sequence[bytes], most: int) -> list[bytes]:
    """Takes every claim for an attempt that the entry spoiled; those that would go to quarantine."""
    scene.raw.execute_command("XCLAIM", scene.stream, scene.group, "naive", 0, *ids)
    return [row[0] for row in scene.pending_rows() if row[3] >= most]  # type: ignore[operator, misc]


def store_pairs_as_a_dict(fields: Sequence[bytes]) -> list[bytes]:
    """A field held twice loses its first value on the way to quarantine."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    return [part for pair in pairs.items() for part in pair]


def walk_from_the_smallest_id(ids: Sequence[bytes], taken_up: int) -> list[bytes]:
    """Each pass begins at the head again; a head that cannot be processed keeps the tail waiting for ever."""
    return list(ids[:taken_up])
