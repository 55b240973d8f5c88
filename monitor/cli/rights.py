"""The rights that the janitor needs, and whether this user has them: one by one, by asking, or by forms that do no harm.

``ACL DRYRUN`` (Redis 7.0) answers without running anything, where the user may ask it. Everywhere else each command is sent
in a form that the server refuses for its arguments, after it looked at the rights: what is denied says NOPERM, what is
allowed says something else, and nothing is read or written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import ResponseError

from monitor.hashes import expiry_command, is_stored_by_script, ttl_of
from monitor.rate import rate_key
from monitor.scripts import Script, probe_script
from shared.own_keys import attempts_key
from shared.redis_client import Command, RedisLink, Reply
from shared.retry import code_of
from shared.settings import StreamSettings

NO_SHA1: Final = "0" * 40
NO_ID: Final = "not-an-id"
NO_GROUP: Final = "doctor:no-such-group"
NO_NUMBER: Final = "not-a-number"
_NAME = re.compile(r"run the '([a-z|._-]{1,40})' command", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Right:
    """One command on one key, and what it is needed for."""

    name: str
    on: str
    command: Command
    """In a form that does nothing."""
    purpose: str


@dataclass(frozen=True, slots=True)
class Missing:
    right: Right
    is_the_key: bool
    """The command is allowed, the key is not."""


def needed(settings: StreamSettings, by_script: bool, cluster: bool, index_names: Sequence[str]) -> list[Right]:
    """The rights for a sweep that settles by script or by gather, dead letters, index and reaping included."""
    stream, group = settings.stream, settings.group
    rights = [
        Right("time", "", ("TIME",), "the server's clock"),
        Right("xpending", stream, ("XPENDING", stream, group, "-", "+", NO_NUMBER), "finding what is pending"),
        Right("xrange", stream, ("XRANGE", stream, NO_ID, NO_ID), "reading entries"),
    ]
    if settings.action != "observe":
        rights += _for_acting(settings, by_script, cluster)
    if cluster:
        rights += CLUSTER
    if settings.action == "observe":
        return rights
    for_index = [right for name in index_names for right in _for_index(name, settings.store_as.upper())]
    if len(index_names) > 1:
        for_index.append(Right("ft._list", "", ("FT._LIST",), "finding each shard's index"))
    others = (_for_dead_letters, _for_reaping, _for_rate_limit, _for_retention)
    return rights + for_index + [right for those in others for right in those(settings)]


def _for_acting(settings: StreamSettings, by_script: bool, cluster: bool) -> list[Right]:
    stream, group = settings.stream, settings.group
    rights = [
        Right("xclaim", stream, ("XCLAIM", stream, group, settings.consumer, NO_NUMBER, NO_ID), "claiming"),
        Right("xack", stream, ("XACK", stream, group, NO_ID), "acknowledging"),
    ]
    if settings.action == "store":
        rights += _for_store(settings)
    if settings.action == "requeue":
        rights += _for_requeue(settings)
    stores = settings.action == "store"
    if (
        by_script
        or (stores and is_stored_by_script(settings))
        or settings.reap_after_ms
        or settings.rate_limit
        or settings.retains
    ):
        rights += SCRIPTS
    if settings.ack_replicas or (cluster and settings.ack_replicas is None and not by_script):
        rights.append(Right("wait", "", ("WAIT", NO_NUMBER, NO_NUMBER), "ACK_REPLICAS"))
        if stores and settings.on_conflict != "overwrite":
            rights += _for_confirming(settings, f"{settings.hash_prefix}*", f"{settings.hash_prefix}doctor")
    return rights


def _for_store(settings: StreamSettings) -> list[Right]:
    key, hash_name = f"{settings.hash_prefix}doctor", f"{settings.hash_prefix}*"
    rights = [_for_storing(settings, hash_name, key)]
    if settings.on_conflict == "newer":
        rights += [
            Right("hget", hash_name, ("HGET", key, "f"), "ON_CONFLICT=newer"),
            Right("hkeys", hash_name, ("HKEYS", key), "ON_CONFLICT=newer"),
            Right("hdel", hash_name, ("HDEL", key, "doctor:no-such-field"), "ON_CONFLICT=newer"),
        ]
    if settings.on_conflict == "keep" and settings.store_as == "hash":
        rights.append(Right("hlen", hash_name, ("HLEN", key), "ON_CONFLICT=keep"))
    ttl_s = ttl_of(settings)
    if ttl_s is not None:
        rights.append(_for_ttl(ttl_s, hash_name, f"{key}:no-such-key"))
    return rights


def _for_requeue(settings: StreamSettings) -> list[Right]:
    target = settings.requeue_target
    rights = [Right("xadd", target, ("XADD", target, NO_ID, "f", "v"), "requeueing")]
    if target == settings.stream and not settings.requeue_with_other_groups:
        rights.append(Right("xinfo|groups", target, ("XINFO", "GROUPS", target), "seeing whether other groups read it"))
    return rights


SCRIPTS: Final = [
    Right("evalsha", "", ("EVALSHA", NO_SHA1, 0), "settling by script"),
    Right("script|load", "", ("SCRIPT", "LOAD", probe_script().text), "settling by script"),
]


CLUSTER: Final = [
    Right("cluster|slots", "", ("CLUSTER", "SLOTS"), "finding the shards"),
    Right("asking", "", ("ASKING",), "following a slot that is being moved"),
]


def _for_storing(settings: StreamSettings, on: str, key: str) -> Right:
    if settings.store_as == "json":
        return Right("json.set", on, ("JSON.SET", key), "storing")
    return Right("hset", on, ("HSET", key, "f", "v", "odd"), "storing")


def _for_confirming(settings: StreamSettings, on: str, key: str) -> list[Right]:
    """What a write that changes nothing takes, for WAIT to confirm what was there."""
    if settings.store_as == "hash":
        return [Right("hscan", on, ("HSCAN", key, NO_NUMBER), "ACK_REPLICAS")]
    gone = f"{key}:no-such-key"
    return [
        Right("pttl", on, ("PTTL", gone), "ACK_REPLICAS"),
        Right("pexpire", on, ("PEXPIRE", gone, NO_NUMBER), "ACK_REPLICAS"),
        Right("persist", on, ("PERSIST", gone), "ACK_REPLICAS"),
        *SCRIPTS,
    ]


def _for_ttl(ttl_s: int, on: str, key: str) -> Right:
    name = expiry_command(ttl_s)
    return Right(name.lower(), on, (name, key, *([NO_NUMBER] if ttl_s else ())), "STORE_TTL_SEC")


def _for_dead_letters(settings: StreamSettings) -> list[Right]:
    dead = settings.dead_letter_stream
    if dead is None:
        return []
    attempts, purpose = attempts_key(dead), "dead letters"
    rights = [Right("xadd", dead, ("XADD", dead, NO_ID, "f", "v"), purpose)]
    if settings.action == "store":  # which alone meets errors that nobody foresaw
        rights += [
            Right("hincrby", attempts, ("HINCRBY", attempts, "f", NO_NUMBER), purpose),
            Right("expire", attempts, ("EXPIRE", attempts, NO_NUMBER), purpose),
            Right("hdel", attempts, ("HDEL", attempts, "doctor:no-such-field"), purpose),
        ]
    return rights


def _for_index(index: str, kind: str) -> list[Right]:
    return [
        Right("ft.info", index, ("FT.INFO", index), "looking at the index"),
        Right(
            "ft.search", index, ("FT.SEARCH", index, "*", "NOCONTENT", "LIMIT", 0, 0), "finding what the index refused"
        ),
        Right("ft.create", index, ("FT.CREATE", index, "ON", kind, "SCHEMA"), "creating the index where it is missing"),
    ]


def _for_reaping(settings: StreamSettings) -> list[Right]:
    if not settings.reap_after_ms:
        return []
    stream, purpose = settings.stream, "REAP_CONSUMERS_AFTER_SEC"
    return [
        Right("xinfo|consumers", stream, ("XINFO", "CONSUMERS", stream, NO_GROUP), purpose),
        Right("xgroup|delconsumer", stream, ("XGROUP", "DELCONSUMER", stream, NO_GROUP, "nobody"), purpose),
    ]


def _for_rate_limit(settings: StreamSettings) -> list[Right]:
    if not settings.rate_limit:
        return []
    key, purpose = rate_key(settings), "RECOVERY_RATE_LIMIT"
    return [
        Right("hgetall", key, ("HGETALL", key), purpose),
        Right("hincrby", key, ("HINCRBY", key, "f", NO_NUMBER), purpose),
        Right("hdel", key, ("HDEL", key, "doctor:no-such-field"), purpose),
        Right("expire", key, ("EXPIRE", key, NO_NUMBER), purpose),
    ]


def _for_retention(settings: StreamSettings) -> list[Right]:
    rights = []
    if settings.retain_ms is not None:
        rights += _to_trim(settings.stream, "RETAIN_SEC")
    dead = settings.dead_letter_stream
    if settings.dead_letter_retain_ms is not None and dead is not None:
        purpose = "DEAD_LETTER_RETAIN_SEC"
        rights += [Right("xrange", dead, ("XRANGE", dead, NO_ID, NO_ID), purpose), *_to_trim(dead, purpose)]
        rights.append(Right("xpending", dead, ("XPENDING", dead, NO_GROUP, "-", "+", NO_NUMBER), purpose))
    return rights


def _to_trim(stream: str, purpose: str) -> list[Right]:
    return [
        Right("xinfo|groups", stream, ("XINFO", "GROUPS", stream), purpose),
        Right("xtrim", stream, ("XTRIM", stream, "MAXLEN", "=", NO_NUMBER), purpose),
    ]


async def may_publish(link: RedisLink, command: str, channel: str) -> bool | None:
    """Whether this user may send to the channel; None where only sending something would tell.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known.
    """
    (user,) = await link.pipelined([("ACL", "WHOAMI")])
    if not isinstance(user, Exception):
        (reply,) = await link.pipelined([("ACL", "DRYRUN", user, command, channel, "")])
        if not isinstance(reply, Exception):
            return bool(reply == b"OK")
    try:
        return bool(await MAY_PUBLISH.run(link, (), (command, channel)))
    except ResponseError:
        return None


MAY_PUBLISH: Final = Script.of(
    "#!lua flags=no-writes,allow-stale\nreturn redis.acl_check_cmd(ARGV[1], ARGV[2], '') and 1 or 0"
)
"""Redis 7.0."""


async def missing(link: RedisLink, rights: Sequence[Right]) -> list[Missing]:
    """Those of ``rights`` that this user does not have. Reads and writes nothing.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known.
    """
    # Asked, not taken from the settings: a login by token may have another name there.
    (user,) = await link.pipelined([("ACL", "WHOAMI")])
    replies: list[Reply] = [user]
    if not isinstance(user, Exception):
        replies = await link.pipelined([("ACL", "DRYRUN", user, *right.command) for right in rights])
    # Without the right to ask, or before 7.0, every answer is an error.
    if any(isinstance(reply, Exception) for reply in replies):
        replies = await link.pipelined([right.command for right in rights])
    return [found for right, reply in zip(rights, replies, strict=True) if (found := _missing(right, reply))]


def _missing(right: Right, reply: Reply) -> Missing | None:
    if isinstance(reply, Exception):
        return Missing(right, not _NAME.search(str(reply))) if code_of(reply) == "NOPERM" else None
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
    if "has no permissions" in text:  # what DRYRUN answers; the forms never succeed with such a text
        return Missing(right, not _NAME.search(text))
    return None
