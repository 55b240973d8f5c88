"""What must hold after anything: the checks that the janitor's tests and their negative controls share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.conftest import Scene

Fields = tuple[bytes, ...]


def entries_of(scene: Scene) -> dict[bytes, Fields]:
    """Every entry of the stream, by id, with names and values in turn."""
    return {row[0]: tuple(row[1]) for row in scene.raw.execute_command("XRANGE", scene.stream, "-", "+")}


def lost(scene: Scene, entries: Mapping[bytes, Fields]) -> list[bytes]:
    """Those of ``entries`` that are nowhere: not pending, not whole in their hash (``id``), not in the dead-letter stream."""
    pending = {row[0] for row in scene.pending_rows()}
    dead = {letter[1][5]: tuple(letter[1][14:]) for letter in scene.dead_letters()}  # type: ignore[index]
    return [
        entry_id
        for entry_id, fields in entries.items()
        if entry_id not in pending and dead.get(entry_id) != fields and not _is_stored(scene, fields)
    ]


def _is_stored(scene: Scene, fields: Fields) -> bool:
    wanted = dict(zip(fields[::2], fields[1::2], strict=True))
    tweet_id = wanted.get(b"id", b"")
    if scene.raw.execute_command("TYPE", scene.prefix.encode() + tweet_id) != b"hash":
        return False
    held = scene.hash(tweet_id)
    return all(held.get(name) == value for name, value in wanted.items())


def is_old_value_back(scene: Scene, newest: Mapping[str, bytes]) -> list[str]:
    """Ids whose hash does not hold the newest text."""
    return [tweet_id for tweet_id, text in newest.items() if scene.hash(tweet_id).get(b"text") != text]


def claimed_twice(claims: Iterable[bytes]) -> int:
    """How many claims there were beyond one for each entry."""
    claims = list(claims)
    return len(claims) - len(set(claims))
