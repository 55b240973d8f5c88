"""Where the janitors of a group keep the window of RECOVERY_RATE_LIMIT; rate.lua says how it works."""

from __future__ import annotations

from shared.hash_tags import has_hash_tag
from shared.settings import StreamSettings


def rate_key(settings: StreamSettings) -> str:
    """The window's key; in a cluster in the stream's slot, since claim and charge are one script.

    A stream name that holds a ``}`` but no hash tag (such as ``a}b``) cannot be tagged: the key lies elsewhere then.
    """
    stream = settings.stream
    tagged = stream if has_hash_tag(stream) else f"{{{stream}}}"
    return f"{tagged}:rate:{settings.group}"
