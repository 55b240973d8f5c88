"""Hash tags: the part of a key by which a Redis Cluster finds its slot (Redis Cluster specification)."""

from __future__ import annotations


def has_hash_tag(name: str) -> bool:
    """Whether there is something between the first ``{`` and the next ``}``."""
    tag, closed, _ = name.partition("{")[2].partition("}")
    return bool(tag and closed)
