"""Storing inside Redis: settle.lua claims, stores and acknowledges where the entries lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import NoScriptError, ResponseError

from monitor.batch import Batch, Refused, ScriptNotAllowed
from monitor.hashes import expiry_command, ttl_of
from monitor.outcomes import BY_WIRE, Outcome
from monitor.patience import Patience
from monitor.pending import PendingEntry
from monitor.rate import rate_key
from monitor.scripts import probe_script, settle_script
from shared.own_keys import guarded_keys
from shared.redis_client import Argument, RedisLink, Reply
from shared.retry import code_of, missing_right
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry

SCRIPT_CODES_FOR_GATHER: Final = ("CROSSSLOT", "NOPERM", "MOVED", "ASK")


class ScriptSettle:
    """Settles inside Redis by settle.lua: nothing of an entry leaves the server, and one run stays under 5 ms."""

    name = "script"
    # The second run travels while the first one works; the server has one thread, so a third would only wait.
    concurrency = 2
    RUN_MS: Final = 3.0
    SMALLEST, LARGEST = 16, 512

    def __init__(self, link: RedisLink, settings: StreamSettings, telemetry: GroupTelemetry = SILENT_GROUP) -> None:
        self.batch_size = 128
        self._link = link
        self._telemetry = telemetry
        self._script = settle_script()
        self._patience = Patience.of(settings)
        self._keys: tuple[Argument, ...] = (settings.stream,)
        if settings.rate_limit:
            self._keys += (rate_key(settings),)
            # Ids of more than a second's entries would travel for nothing.
            self.LARGEST = min(self.LARGEST, settings.rate_limit)
            self.batch_size = min(self.batch_size, settings.rate_limit)
        self.arguments: dict[str, Argument | bool] = {
            "group": settings.group,
            "consumer": settings.consumer,
            "hash_prefix": settings.hash_prefix,
            "on_conflict": settings.on_conflict,
            "run_ms": self.RUN_MS,
            "most_traces": telemetry.most_links,
            "keeps_trace_fields": settings.keep_trace_fields,
            "rate_limit": settings.rate_limit,
            "returns_keys": settings.recovered_channel is not None,
            "store_as": settings.store_as,
            "payload_field": settings.payload_field or "",
            "ttl_s": ttl_s if (ttl_s := ttl_of(settings)) is not None else "",
            "id_fields": ",".join(settings.id_fields),
            "guarded_keys": b"".join(b"\0" + key for key in guarded_keys(settings)),
        }

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        joined_ids = b" ".join([entry.entry_id for entry in entries])
        min_idle_ms = self._patience.threshold_ms(entries[0].deliveries)  # they share it
        arguments = self._script.named(joined_ids=joined_ids, min_idle_ms=min_idle_ms, **self.arguments)
        try:
            async with self._link.turn_at(self._keys[0], self.concurrency):
                with self._telemetry.settle(len(entries)):
                    reply = await self._script.run(self._link, self._keys, arguments)
        except ResponseError as error:
            if code_of(error) in SCRIPT_CODES_FOR_GATHER or is_unknown_to_old_server(error):
                raise ScriptNotAllowed(refusal_in_words(error)) from None
            raise
        batch = self._read(entries, reply)
        if not batch.wait_s:
            self._adapt(len(entries), batch.taken)
        return batch

    def _read(self, entries: Sequence[PendingEntry], reply: Reply) -> Batch:
        """The batch by what settle.lua returned; its head says what that is."""
        taken, named, traces, more_traces, wait_ms, stored_keys = reply
        batch = Batch(taken, wait_s=wait_ms / 1000, recovered=stored_keys)
        batch.traces, batch.more_traces = list(zip(traces[::2], traces[1::2], strict=True)), more_traces
        words = dict(zip(named[::2], named[1::2], strict=True))
        batch.stored = [entry.entry_id for entry in entries[:taken] if entry.entry_id not in words]
        batch.counts[Outcome.PROCESSED] = len(batch.stored)
        rows = {entry.entry_id: entry for entry in entries[:taken]} if words else {}
        for entry_id, word in words.items():
            outcome = BY_WIRE.get(word)
            if outcome is None:
                batch.refused.append(Refused(rows[entry_id], word.decode()))
            elif outcome is Outcome.DELETED:
                batch.deleted.append(entry_id)
            elif outcome is Outcome.LOST_RACE:
                batch.lost += 1
            else:
                batch.counts[outcome] += 1
        return batch

    def _adapt(self, sent: int, taken: int) -> None:
        """Send what one run gets through, and a little more: ids behind its end travel for nothing."""
        if taken < sent:
            self.batch_size = max(self.SMALLEST, taken + 8)
        elif sent == self.batch_size:
            self.batch_size = min(self.LARGEST, self.batch_size + self.batch_size // 4)


def is_unknown_to_old_server(error: ResponseError) -> bool:
    """Below 7.0 the shebang line is a compile error."""
    return "compiling script" in str(error)


def refusal_in_words(error: ResponseError) -> str:
    code = code_of(error)
    return f"the Redis user lacks {missing_right(error)}" if code == "NOPERM" else code


async def script_is_allowed(link: RedisLink, settings: StreamSettings) -> str | None:
    """None if a script may settle this stream; else the reason why not. Writes nothing.

    Raises:
        redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known; asking again is safe.
    """
    keys = [f"{settings.hash_prefix}probe-{number}" for number in range(3)]
    ttl_s = ttl_of(settings)
    write = "JSON.SET" if settings.store_as == "json" else "HSET"
    writes = write if ttl_s is None else f"{write} {expiry_command(ttl_s)}"
    try:
        answer: bytes = await probe_script(writes).run(link, (settings.stream,), (settings.group, *keys))
    except NoScriptError:  # flushed once more between its loading and its run: no answer to what was asked
        raise
    except ResponseError as error:
        return "Redis is older than 7.0" if is_unknown_to_old_server(error) else refusal_in_words(error)
    return None if answer == b"OK" else answer.decode()
