"""The rights that the janitor needs: the lines that the README quotes, found by taking each right away (test_acl.py).

``ACL SETUSER`` adds to what a user has, so a deployment runs the line of its settle mode and those of what it uses. The names
are the defaults: stream ``tweets_stream``, HASH_PREFIX ``tweet:``, INDEX_NAME ``tweets-index``.

Not needed: HELLO and AUTH (Redis lets everybody use them), CLIENT SETINFO (the client goes without; Redis notes it in ACL LOG).
"""

from __future__ import annotations

from typing import Final

SCRIPT: Final = (
    "ACL SETUSER stream_janitor on >PASSWORD resetkeys resetchannels -@all ~tweets_stream %W~tweet:*"
    " +client|setname +ping +time +xpending +xrange +xclaim +xack +hset +evalsha +script|load"
)
"""SETTLE_MODE script, and auto where Redis is 7.0 or later. +ping: a connection that was idle is tried before it is used."""

GATHER: Final = (
    "ACL SETUSER stream_janitor on >PASSWORD resetkeys resetchannels -@all ~tweets_stream %W~tweet:*"
    " +client|setname +ping +time +xpending +xrange +xclaim +xack +hset"
)
"""SETTLE_MODE gather, and auto without +evalsha. Redis 6 has no %W: write ~tweet:* there."""

HANDLE: Final = (
    "ACL SETUSER stream_janitor on >PASSWORD resetkeys resetchannels -@all ~tweets_stream"
    " +client|setname +ping +time +xpending +xrange +xclaim +xack +evalsha +script|load"
)
"""ACTION=handle: no hash and no index."""

DEAD_LETTERS: Final = (
    "ACL SETUSER stream_janitor %W~tweets_stream:dead ~tweets_stream:dead:attempts +xadd +hincrby +expire +hdel"
)
"""Unless DEAD_LETTER_STREAM is off."""

INDEX: Final = "ACL SETUSER stream_janitor ~tweets-index +ft.info +ft.create +ft.search"
"""Unless INDEX_SCHEMA is off or there is no search module. Without +ft.create somebody else has to create the index."""

NEWER: Final = "ACL SETUSER stream_janitor ~tweet:* +hget +hkeys +hdel +evalsha +script|load"
"""ON_CONFLICT=newer: it looks into the hash that is there."""

KEEP: Final = "ACL SETUSER stream_janitor ~tweet:* +hlen +evalsha +script|load"
"""ON_CONFLICT=keep: it asks whether a hash is there. Reading is for gather, whose script is given the hash as its key."""

JSON: Final = "ACL SETUSER stream_janitor ~tweet:* +json.set"
"""STORE_AS=json, which does without +hset. JSON.SET counts as reading its key too."""

TTL: Final = "ACL SETUSER stream_janitor ~tweet:* +expire +persist +evalsha +script|load"
"""STORE_TTL_SEC; +persist only for 0, +expire only for more. Both count as reading their key too."""

REAP: Final = "ACL SETUSER stream_janitor +xinfo|consumers +xgroup|delconsumer +evalsha +script|load"
"""REAP_CONSUMERS_AFTER_SEC above 0."""

REPLICAS: Final = "ACL SETUSER stream_janitor +wait"
"""ACK_REPLICAS above 0."""

CONFIRMED: Final = "ACL SETUSER stream_janitor ~tweet:* +hscan +evalsha +script|load"
"""ACK_REPLICAS above 0, or a cluster with replicas, together with ON_CONFLICT newer or keep."""

CONFIRMED_JSON: Final = "ACL SETUSER stream_janitor ~tweet:* +pttl +pexpire +persist +evalsha +script|load"
"""The same with STORE_AS=json and ON_CONFLICT=keep."""

CLUSTER: Final = "ACL SETUSER stream_janitor +cluster|slots +asking +wait"
"""REDIS_CLUSTER. On every server, replicas too: users are not replicated."""

CLUSTER_INDEX: Final = "ACL SETUSER stream_janitor ~tweets-index{*} +ft._list"
"""REDIS_CLUSTER where each shard has an index of its own. Without +ft._list an index may be made twice after resharding."""

TELEMETRY: Final = "ACL SETUSER stream_janitor +xinfo|groups +xlen"
"""Where telemetry is on; without it the group's lag and the number of dead letters are not told."""

RATE_LIMIT: Final = (
    "ACL SETUSER stream_janitor ~{tweets_stream}:rate:* +hgetall +hincrby +hdel +expire +evalsha +script|load"
)
"""RECOVERY_RATE_LIMIT above 0. The key of a stream with a hash tag, such as ``tweets:{3}``, begins with the stream's name."""

RECOVERED: Final = "ACL SETUSER stream_janitor &tweets:recovered +publish"
"""RECOVERED_CHANNEL; without it the sweep goes on, and its log says that nobody was told."""

REQUEUE: Final = (
    "ACL SETUSER stream_janitor on >PASSWORD resetkeys resetchannels -@all ~tweets_stream"
    " +client|setname +ping +time +xpending +xrange +xclaim +xack +xadd +xinfo|groups +evalsha +script|load"
)
"""ACTION=requeue; by SETTLE_MODE gather without the last two. With REQUEUE_WITH_OTHER_GROUPS without +xinfo|groups."""

REQUEUE_TO: Final = "ACL SETUSER stream_janitor ~retries"
"""REQUEUE_TO: reading too, for XINFO GROUPS."""

REQUEUED_TOO_OFTEN: Final = "ACL SETUSER stream_janitor %W~tweets_stream:dead"
"""ACTION=requeue, unless DEAD_LETTER_STREAM is off."""

DEAD_LETTER: Final = (
    "ACL SETUSER stream_janitor on >PASSWORD resetkeys resetchannels -@all ~tweets_stream %W~tweets_stream:dead"
    " +client|setname +ping +time +xpending +xrange +xclaim +xack +xadd"
)
"""ACTION=dead_letter."""

OBSERVE: Final = (
    "ACL SETUSER stream_janitor on >PASSWORD resetkeys resetchannels -@all ~tweets_stream"
    " +client|setname +ping +time +xpending +xrange"
)
"""ACTION=observe. %R~tweets_stream will do from Redis 7.0."""

ACTION_LINES: Final = {
    "requeue": (REQUEUE, REQUEUE_TO, REQUEUED_TOO_OFTEN),
    "dead_letter": (DEAD_LETTER,),
    "observe": (OBSERVE,),
}
"""What docs/actions/<action>.md quotes."""
RETENTION: Final = "ACL SETUSER stream_janitor +xinfo|groups +xlen +xtrim +evalsha +script|load"
"""RETAIN_SEC. +xtrim also permits XTRIM MAXLEN 0, with which whoever has this login can empty the stream. +xlen: the length."""

DEAD_LETTER_RETENTION: Final = (
    "ACL SETUSER stream_janitor ~tweets_stream:dead +xinfo|groups +xlen +xtrim +evalsha +script|load"
)
"""DEAD_LETTER_RETAIN_SEC: reads the dead-letter stream too."""

LINES: Final = (
    SCRIPT,
    GATHER,
    DEAD_LETTERS,
    INDEX,
    NEWER,
    KEEP,
    JSON,
    TTL,
    REAP,
    REPLICAS,
    CONFIRMED,
    CONFIRMED_JSON,
    CLUSTER,
    CLUSTER_INDEX,
    TELEMETRY,
    RATE_LIMIT,
    RECOVERED,
    RETENTION,
    DEAD_LETTER_RETENTION,
)


def for_redis_6(line: str) -> str:
    """The line as Redis 6 takes it, which knows no rights to only read or only write a key."""
    return line.replace("%W~", "~")


def words(line: str) -> list[str]:
    """The line's rules: what follows the user's name."""
    return line.split()[3:]
