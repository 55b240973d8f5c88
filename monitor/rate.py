"""Where the janitors of a group keep the window of RECOVERY_RATE_LIMIT; rate.lua says how it works."""

from __future__ import annotations

from shared.settings import StreamSettings


def rate_key(settings: StreamSettings) -> str:
    """The window's key; in a cluster in the stream's slot, since claim and charge are one script.

    A stream name that holds a ``}`` but no hash tag (such as ``a}b``) cannot be tagged: the key lies elsewhere then.
    """
    stream = settings.stream
    tagged = stream if _has_hash_tag(stream) else f"{{{stream}}}"
    return f"{tagged}:rate:{settings.group}"


def _has_hash_tag(name: str) -> bool:
    """What lies between the first ``{`` and the next ``}``, if it is not empty (Redis Cluster specification)."""
    tag, closed, _ = name.partition("{")[2].partition("}")
    return bool(tag and closed)
