"""``doctor``: is everything there that a sweep needs? Each thing: ok, or what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError
from rich.text import Text

from monitor import server_clock
from monitor.actions import action_class
from monitor.actions.requeue import cannot_see_groups, nobody_reads, others_would_see
from monitor.cli.call import Call, command
from monitor.cli.escape import harmless
from monitor.cli.exits import FAILED, FINE, UNREACHABLE, USAGE, as_ours
from monitor.cli.look import summary_and_time
from monitor.cli.main import commands
from monitor.cli.reach import is_loopback
from monitor.cli.rights import Missing, Right, may_publish, missing, needed
from monitor.cli.sample import eviction_policy, sample_of_ids
from monitor.cli.words import span
from monitor.group_stats import other_groups
from monitor.hashes import require_json
from monitor.index import OFF, OK, IndexInfo, SearchIndex
from monitor.missing_index import reason_against
from monitor.rate import rate_key
from monitor.recovered import publish_command
from monitor.retention import Retention
from monitor.shard_indexes import shard_indexes
from monitor.stream_retention import dead_letter_policy, stream_policy
from shared.cluster import ClusterLink
from shared.errors import JanitorError, RedisRefused, RedisUnavailable, SettingsError
from shared.hash_tags import has_hash_tag
from shared.reach import speaks_plain, speaks_tls
from shared.redis_client import RedisLink, Reply, mapping_of
from shared.retry import code_of, to_user_error
from shared.settings import RedisSettings, StreamSettings
from shared.suspicious_settings import suspicious_settings

SERVERS: Final = {"valkey": "Valkey"}
"""HELLO's word for what is not Redis."""
NO_HELLO: Final = "a server of RESP2 (no HELLO, so version and role are not told)"
REPLICAS_WAIT_MS: Final = 200
LOGIN_CODES: Final = ("NOAUTH", "WRONGPASS")


class Findings:
    """Prints each finding as it is made and remembers the worst."""

    def __init__(self, call: Call) -> None:
        self._out = call.out
        self.code = FINE
        self.server = "Redis"
        """What the server calls itself."""

    def ok(self, name: str, text: str, **more: Any) -> None:
        self._tell(name, True, text, **more)

    def warning(self, name: str, text: str) -> None:
        """Nothing is wrong for certain, and the exit code stays."""
        self._tell(name, True, text, warning=True)

    def problem(self, name: str, text: str, code: int = FAILED, **more: Any) -> None:
        """``text`` says what is wrong and what to do."""
        self.code = max(self.code, code)
        self._tell(name, False, text, **more)

    def _tell(self, name: str, is_ok: bool, text: str, **more: Any) -> None:
        if self._out.as_json:
            self._out.record("doctor", check=name, ok=is_ok, detail=text, **more)
        else:
            word, style = ("ok", "green") if is_ok else ("problem", "bold red")
            if more.get("warning"):
                word, style = "warning", "yellow"
            line = Text(f"{word:<9}", style=style)
            self._out.line(line.append(harmless(f"{name:<13}{text}"), style="not bold default"))
        self._out.flush()


@command(commands, "doctor")
async def doctor(call: Call) -> int:
    """Check settings, connection, TLS, rights, group, index and script mode: each ok, or what to do."""
    findings = Findings(call)
    try:
        for warning in suspicious_settings(call.environment):
            findings.warning("settings", warning)
        settings = call.settings
    except SettingsError as error:
        for problem in error.problems:
            findings.problem("settings", problem, USAGE)
        return findings.code
    findings.ok("settings", f"read from {call.settings_file or 'the environment'}")
    async with call.link() as link:
        if await _connection(findings, link, settings.redis):
            await _cluster(findings, link)
            for stream in settings.streams:
                await _stream(findings, link, settings.redis, stream)
    return findings.code


async def _connection(findings: Findings, link: RedisLink, redis: RedisSettings) -> bool:
    """Whether Redis lets us in."""
    began_s = time.monotonic()
    try:
        hello = await _hello(link)
    except (RedisError, OSError) as error:
        await _trouble(findings, redis, error)
        return False
    except RedisRefused as error:
        findings.problem("cluster", str(error))
        return False
    took_ms = 1000 * (time.monotonic() - began_s)
    told = {name.decode(): _text(value) for name, value in mapping_of(hello).items() if isinstance(name, bytes)}
    findings.server = SERVERS.get(told.get("server", ""), "Redis")
    server = (
        f"{findings.server} {told['version']}, {told.get('mode', '')}, {told.get('role', '')}"
        if "version" in told
        else NO_HELLO
    )
    who = f"the cluster of {redis.host}:{redis.port}" if link.is_cluster else f"{redis.host}:{redis.port}"
    findings.ok("connection", f"{who} answers, logged in after {took_ms:.1f} ms: {server}")
    if told.get("role") == "replica":
        findings.problem("connection", "REDIS_HOST leads to a read-only replica: name the primary")
    if told.get("mode") == "cluster" and not link.is_cluster:
        findings.problem("cluster", "this server belongs to a Redis Cluster: set REDIS_CLUSTER=true")
    _tls(findings, redis)
    if redis.entra is not None:
        findings.ok("login", "by Entra token")
    else:
        findings.ok("login", f"user {redis.username or 'default'}{'' if redis.password else ', without a password'}")
    return True


async def _hello(link: RedisLink) -> Reply:
    """What the server says of itself; nothing where it has no HELLO, as a proxy may have none."""
    try:
        return await link.call("HELLO")
    except ResponseError as error:
        if code_of(error) == "NOCOMMAND":
            await link.call("PING")
            return []
        raise


async def _cluster(findings: Findings, link: RedisLink) -> None:
    """Whether the cluster's servers are all within reach; a single server is no finding."""
    if not isinstance(link, ClusterLink):
        return
    topology = await link.topology()
    replicas = sum(topology.replicas.values())
    findings.ok("cluster", f"{len(topology.primaries)} primaries, {replicas} replicas")
    if topology.unserved:
        findings.problem("cluster", f"{topology.unserved:,} of 16,384 slots are served by nobody: see CLUSTER NODES")
    for (host, port), count in topology.replicas.items():
        try:
            await link.ask((host, port), "PING")
        except (RedisError, OSError) as error:
            findings.problem("cluster", f"the primary {host}:{port}: {to_user_error(error, 'PING')}", UNREACHABLE)
        if replicas and not count:
            findings.problem(
                "cluster", f"the primary {host}:{port} has no replica, so nothing stored there is confirmed and acknowledged "
                "(ACK_REPLICAS): give it one, or set ACK_REPLICAS=0",
            )  # fmt: skip


def _text(value: Reply) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _tls(findings: Findings, redis: RedisSettings) -> None:
    if redis.tls:
        ca = f" by {redis.tls_ca_file}" if redis.tls_ca_file else ""
        findings.ok("TLS", f"1.2 or later, certificate verified{ca}")
    elif is_loopback(redis.host):
        findings.ok("TLS", "off, which is fine on this machine itself (loopback)")
    else:
        findings.problem(
            "TLS", f"off, and {redis.host} is another machine: password and entries travel in the clear; "
            "set REDIS_TLS=true, with the server's TLS port",
        )  # fmt: skip


async def _trouble(findings: Findings, redis: RedisSettings, error: Exception) -> None:
    """Name the cause: a wrong login, a refused certificate, TLS on one side only, or nothing there."""
    code = code_of(error)
    ours = to_user_error(error, "connecting")
    if code in LOGIN_CODES:
        findings.ok("connection", f"{redis.host}:{redis.port} answers")
        _tls(findings, redis)
        findings.problem("login", str(ours))
    elif code == "TLS":
        findings.ok("connection", f"{redis.host}:{redis.port} answers")
        findings.problem("TLS", str(ours))
    elif code in ("NOPERM", "READONLY"):  # of HELLO: we are in; and it says whether this is a replica
        findings.problem("login", str(ours))
    elif not redis.tls and await speaks_tls(redis.host, redis.port):
        findings.problem("connection", f"{redis.host}:{redis.port} does not speak without TLS", UNREACHABLE)
        findings.problem("TLS", "off, but the server speaks TLS: set REDIS_TLS=true", UNREACHABLE)
    elif redis.tls and await speaks_plain(redis.host, redis.port):
        findings.problem("connection", f"{redis.host}:{redis.port} does not speak TLS", UNREACHABLE)
        findings.problem(
            "TLS", "on, but the server speaks without: use its TLS port (Azure: 6380 or 10000), or set REDIS_TLS=false "
            "for a server on this machine", UNREACHABLE,
        )  # fmt: skip
    else:
        text = str(ours) if isinstance(ours, RedisUnavailable) else f"{ours}: check REDIS_HOST and REDIS_TLS"
        findings.problem("connection", f"{redis.host}:{redis.port}: {text}", UNREACHABLE)


async def _stream(findings: Findings, link: RedisLink, redis: RedisSettings, stream: StreamSettings) -> None:
    try:
        await _group(findings, link, stream)
        _action(findings, stream)
        if stream.action == "handle":
            await _handle(findings, link, redis, stream)
            return
        search = SearchIndex(link, stream)
        await _json_module(findings, link, stream)
        index = await search.ask() if action_class(stream).uses_index else IndexInfo(OFF)
        mode = await _script_mode(findings, link, stream)
        names = search.names if index.status != OFF and index.has_module else ()
        await _rights(findings, link, redis, needed(stream, mode == "script", redis.cluster, names))
        if stream.action == "requeue":
            await _requeue_target(findings, link, stream)
        if stream.action == "observe":
            return
        if stream.action == "store":
            await _ids(findings, link, stream)
            await _eviction(findings, link, stream)
        await _replicas(findings, link, stream)
        await _dead_letter_stream(findings, link, stream)
        await _retention(findings, link, stream)
        _rate_limit(findings, stream)
        await _recovered_channel(findings, link, redis, stream)
        if isinstance(link, ClusterLink) and names:
            await _shard_indexes(findings, link, stream)
        if action_class(stream).uses_index:
            await _index(findings, link, stream, search, index)
    except (RedisError, JanitorError) as error:
        ours = as_ours(error, "doctor", stream.stream, stream.group)
        findings.problem("connection", str(ours), UNREACHABLE if isinstance(ours, RedisUnavailable) else FAILED)


async def _handle(findings: Findings, link: RedisLink, redis: RedisSettings, stream: StreamSettings) -> None:
    """The handler is looked for, not opened or called."""
    from monitor.actions.handle import spec_of
    from monitor.handling.find import find

    try:
        find(spec_of(stream))
        findings.ok("handler", f"{stream.handler} is found", stream=stream.stream)
    except SettingsError as error:
        findings.problem("handler", "; ".join(error.problems), stream=stream.stream)
    await _rights(findings, link, redis, needed(stream, True, redis.cluster, ()))
    await _replicas(findings, link, stream)
    await _dead_letter_stream(findings, link, stream)
    await _retention(findings, link, stream)
    _rate_limit(findings, stream)


ACTIONS_TOLD: Final = {
    "store": "store: abandoned entries become hashes under {settings.hash_prefix}",
    "requeue": "requeue: abandoned entries are added to {settings.requeue_target} again, {times}",
    "handle": "handle: abandoned entries are given to your code",
    "dead_letter": "dead_letter: abandoned entries are moved to {settings.dead_letter_stream}",
    "observe": "observing: nothing is claimed, written or created",
}


def _action(findings: Findings, stream: StreamSettings) -> None:
    times = f"each at most {stream.max_requeues} times" if stream.max_requeues else "however often that was done"
    told = ACTIONS_TOLD[stream.action].format(settings=stream, times=times)
    findings.ok("action", told, stream=stream.stream, action=stream.action)


async def _requeue_target(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    """Who reads the stream to which entries are added, and whether they may be added there."""
    target = stream.requeue_target
    named: dict[str, Any] = {"stream": stream.stream, "target": target}
    is_elsewhere = target != stream.stream
    try:
        others, is_read = await other_groups(link, target, "" if is_elsewhere else stream.group)
    except ResponseError as error:
        if code_of(error) == "WRONGTYPE":
            findings.problem("target", f"{target} is a key of another type: set REQUEUE_TO", **named)
        elif not is_elsewhere and not stream.requeue_with_other_groups:
            findings.problem("target", cannot_see_groups(stream), **named)
        else:
            findings.ok("target", f"{target}; who reads it this user may not see (+xinfo|groups)", **named)
        return
    if is_elsewhere and not is_read:
        findings.problem("target", f"{nobody_reads(stream)}: XGROUP CREATE {target} <group> 0 MKSTREAM", **named)
    elif not is_elsewhere and others and not stream.requeue_with_other_groups:
        findings.problem("target", others_would_see(stream, others), **named)
    else:
        also = (
            f"; {', '.join(others)} {'see' if len(others) > 1 else 'sees'} the requeued entries as new ones"
            if others
            else ""
        )
        findings.ok("target", f"{target}{also}", **named)


async def _group(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    named: dict[str, Any] = {"stream": stream.stream, "group": stream.group}
    try:
        summary, now_ms = await summary_and_time(link, stream)
        clock = await server_clock.look(link, stream, summary, now_ms)
    except RedisError as error:
        ours = as_ours(error, "XPENDING", stream.stream, stream.group)
        if isinstance(ours, RedisUnavailable):
            raise
        findings.problem("group", str(ours), **named)
        return
    findings.ok("group", f"{stream.stream} / {stream.group}: {summary.total:,} pending", **named)
    if clock.trouble:
        findings.problem("clock", f"{clock.trouble}: see that the server's time is kept (NTP)", **named)


async def _json_module(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    if stream.store_as != "json":
        return
    try:
        await require_json(link, stream)
    except RedisRefused as error:
        findings.problem("JSON", str(error), stream=stream.stream)
    else:
        findings.ok("JSON", "this Redis has JSON.SET, which STORE_AS=json needs", stream=stream.stream)


async def _script_mode(findings: Findings, link: RedisLink, stream: StreamSettings) -> str:
    """How a sweep will settle: script or gather."""
    mode = await action_class(stream).mode_of(link, stream)
    if mode.is_refused:
        findings.problem(
            "script mode", f"a script may not settle here ({mode.reason}): give the rights, or set SETTLE_MODE=auto",
            stream=stream.stream,
        )  # fmt: skip
    elif mode.name == "none":
        pass
    elif mode.name == "script":
        findings.ok("script mode", "script: entries are settled inside Redis", stream=stream.stream)
    else:
        why = f"{mode.asked_by} asks for" if mode.asked_by else f"a script may not settle here ({mode.reason})"
        findings.ok("script mode", f"gather, as {why}", stream=stream.stream)
    return mode.name


async def _rights(findings: Findings, link: RedisLink, redis: RedisSettings, rights: Sequence[Right]) -> None:
    lacking = {id(one.right): one for one in await missing(link, rights)}
    for right in rights:
        one = lacking.get(id(right))
        told = f"+{right.name}{f' on {right.on}' if right.on else ''}, for {right.purpose}"
        if one is None:
            findings.ok("right", told, right=right.name, on=right.on)
        else:
            findings.problem("right", f"{told}, is missing: {_grant(redis, right, one)}", right=right.name, on=right.on)


def _grant(redis: RedisSettings, right: Right, one: Missing) -> str:
    key = f" ~{right.on}" if right.on else ""  # with the command too: it may be missing behind it
    return f"ACL SETUSER {redis.username or 'default'}{'' if one.is_the_key else f' +{right.name}'}{key}"


def _other_server(findings: Findings) -> str:
    return "use Redis 8, or " if findings.server == "Redis" else ""


async def _ids(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    """Whether pending entries have the fields that ID_FIELDS names."""
    try:
        sample = await sample_of_ids(link, stream)
    except ResponseError:
        return  # the right, or the group, is a finding of its own
    if not sample.looked_at:
        return
    wanted = ", ".join(f"`{name}`" for name in stream.id_fields)
    told = f"{sample.with_id} of {sample.looked_at} pending entries have {wanted}"
    if sample.with_id:
        findings.ok("ids", told, stream=stream.stream)
    else:
        seen = ", ".join(sample.fields) or "none"
        findings.problem("ids", f"{told}; fields seen: {seen}: correct ID_FIELDS", stream=stream.stream)


async def _eviction(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    """Whether the server may throw away what is stored, and the stream with it."""
    policy = await eviction_policy(link)
    if policy is None:
        return
    takes_all, takes_those_with_ttl = policy.startswith("allkeys-"), policy.startswith("volatile-")
    if takes_all or (takes_those_with_ttl and stream.store_ttl_ms):
        what = "hashes, stream and group" if takes_all else "what STORE_TTL_SEC gave an expiry"
        findings.problem(
            "memory", f"maxmemory-policy is {policy}: when memory runs out, the server evicts {what}; set it "
            "to noeviction", stream=stream.stream,
        )  # fmt: skip


async def _replicas(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    """Whether as many replicas are in touch as ACK_REPLICAS wants; a cluster's shards are looked at one by one before."""
    wanted = stream.ack_replicas
    if not wanted or link.is_cluster:
        return
    (count,) = await link.pipelined([("WAIT", wanted, REPLICAS_WAIT_MS)])
    if isinstance(count, Exception):
        return  # the right is a finding of its own
    if count < wanted:
        findings.problem(
            "replicas", f"ACK_REPLICAS is {wanted}, but {count} in touch: nothing is acknowledged until there are as many; "
            "see INFO replication, or lower ACK_REPLICAS", stream=stream.stream,
        )  # fmt: skip
    else:
        findings.ok("replicas", f"{count} in touch, ACK_REPLICAS asks for {wanted}", stream=stream.stream)


async def _dead_letter_stream(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    dead = stream.dead_letter_stream
    if dead is None:
        findings.ok("dead letters", "off: entries that cannot be stored stay pending", stream=stream.stream)
        return
    (length,) = await link.pipelined([("XLEN", dead)])
    if isinstance(length, Exception) and code_of(length) == "WRONGTYPE":
        findings.problem(
            "dead letters", f"{dead} is a key of another type: set DEAD_LETTER_STREAM", stream=stream.stream
        )
        return
    told = f"{length:,} there" if isinstance(length, int) else "how many are there this user may not see (XLEN)"
    findings.ok("dead letters", f"{dead}: {told}", stream=stream.stream)


async def _shard_indexes(findings: Findings, link: ClusterLink, stream: StreamSettings) -> None:
    indexes = await shard_indexes(link, stream.index_name)
    if len(indexes.names) > 1:
        told = (
            f"one for each shard, as this search module does not span them: search each of {', '.join(indexes.names)}"
        )
    elif has_hash_tag(stream.index_name):
        told = f"{stream.index_name} lies in the shard of its hash tag, and covers what lies there"
    else:
        told = f"{stream.index_name} spans all shards"
    findings.ok("index", told, stream=stream.stream, index=stream.index_name, names=list(indexes.names))
    for name in indexes.left_behind:
        findings.problem(
            "index", f"{name} is out of reach since its slot moved to another shard, and goes on indexing: to drop it, move "
            f"slot {key_slot(name.encode())} back, FT.DROPINDEX {name}, and move the slot again", stream=stream.stream,
        )  # fmt: skip


async def _retention(findings: Findings, link: RedisLink, stream: StreamSettings) -> None:
    """What is thrown away by age, and what keeps it from going."""
    for name, policy, what in (
        (stream.stream, stream_policy(stream), "entries that every group has finished with"),
        (stream.dead_letter_stream, dead_letter_policy(stream), "dead letters are thrown away for good"),
    ):
        if name is None or policy is None:
            continue
        text = f"{name}: {what} are trimmed" if policy.needs_group else f"{name}: {what}"
        text += f" once they are {span(policy.retain_ms / 1000)} old"
        try:
            retained = await Retention(link, name, policy, dry_run=True).look()
        except RedisRefused as error:
            findings.problem("retention", f"{name}: {error}", stream=stream.stream)
        except ResponseError as error:  # a right is missing, which is a finding of its own
            findings.ok("retention", f"{text} (what holds it is not known: {code_of(error)})", stream=stream.stream)
        else:
            hindrance = "" if retained.hindrance is None else f"; now {retained.hindrance.text}"
            findings.ok("retention", text + hindrance, stream=stream.stream)


def _rate_limit(findings: Findings, stream: StreamSettings) -> None:
    if stream.rate_limit:
        findings.ok(
            "rate limit", f"{stream.rate_limit:,} entries/s for all janitors of {stream.stream} / {stream.group} together, "
            f"by the window in {rate_key(stream)}", stream=stream.stream,
        )  # fmt: skip


async def _recovered_channel(findings: Findings, link: RedisLink, redis: RedisSettings, stream: StreamSettings) -> None:
    channel, command = stream.recovered_channel, publish_command(redis.cluster)
    if channel is None:
        return
    may = await may_publish(link, command, channel)
    if may is False:
        user, right = redis.username or "default", command.lower()
        findings.problem(
            "channel", f"this user may not publish to {channel}, so nobody is told of what is recovered: "
            f"ACL SETUSER {user} +{right} &{channel}", stream=stream.stream,
        )  # fmt: skip
    else:
        unknown = "" if may else "; whether this user may publish there the first sweep's log tells"
        findings.ok("channel", f"{channel} is told of what is recovered{unknown}", stream=stream.stream)


async def _index(
    findings: Findings, link: RedisLink, stream: StreamSettings, search: SearchIndex, index: IndexInfo
) -> None:
    names = ", ".join(search.names)
    named: dict[str, Any] = {"stream": stream.stream, "index": stream.index_name, "names": list(search.names)}
    if index.status == OFF:
        findings.ok("index", "off: none is wanted", **named)
    elif index.status == OK:
        findings.ok("index", f"{names}: {index.documents:,} documents", **named)
    elif index.is_missing:
        against = await reason_against(link, stream, index.missing[0], ())
        findings.problem("index", against or f"{index.status}: the next sweep creates it, if it may", **named)
    elif not index.has_module:
        findings.problem("index", f"{index.status}: {_other_server(findings)}say INDEX_SCHEMA=off", **named)
    else:
        findings.problem("index", f"{index.status}: create another (FT.CREATE) or correct the settings", **named)
