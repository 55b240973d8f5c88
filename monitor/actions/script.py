"""Storing inside Redis: settle.lua claims, stores and acknowledges where the entries lie."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.actions.in_scripts import InScripts, reason_why_not
from monitor.batch import Batch
from monitor.hashes import expiry_command, ttl_of
from monitor.outcomes import Outcome
from monitor.pending import PendingEntry
from monitor.scripts import probe_script, settle_script
from shared.own_keys import guarded_keys
from shared.redis_client import Argument, RedisLink
from shared.settings import StreamSettings
from shared.telemetry import SILENT_GROUP, GroupTelemetry


class ScriptSettle(InScripts):
    """Settles by settle.lua."""

    settled_as = Outcome.PROCESSED

    def __init__(self, link: RedisLink, settings: StreamSettings, telemetry: GroupTelemetry = SILENT_GROUP) -> None:
        arguments: dict[str, Argument | bool] = {
            "hash_prefix": settings.hash_prefix,
            "on_conflict": settings.on_conflict,
            "keeps_trace_fields": settings.keep_trace_fields,
            "returns_keys": settings.recovered_channel is not None,
            "store_as": settings.store_as,
            "payload_field": settings.payload_field or "",
            "ttl_s": ttl_s if (ttl_s := ttl_of(settings)) is not None else "",
            "id_fields": ",".join(settings.id_fields),
            "guarded_keys": b"".join(b"\0" + key for key in guarded_keys(settings)),
        }
        super().__init__(link, settings, telemetry, settle_script(), (settings.stream,), arguments)

    async def settle(self, entries: Sequence[PendingEntry]) -> Batch:
        reply = await self._run(entries)
        batch = self._batch_of(entries, reply)
        _, named, *_, batch.recovered = reply
        others = set(named[::2])
        batch.stored = [entry.entry_id for entry in entries[: batch.taken] if entry.entry_id not in others]
        return batch


async def script_is_allowed(link: RedisLink, settings: StreamSettings) -> str | None:
    """None if a script may settle this stream; else ``reason_why_not``."""
    keys = [f"{settings.hash_prefix}probe-{number}" for number in range(3)]
    ttl_s = ttl_of(settings)
    write = "JSON.SET" if settings.store_as == "json" else "HSET"
    writes = write if ttl_s is None else f"{write} {expiry_command(ttl_s)}"
    return await reason_why_not(probe_script(writes), link, (settings.stream,), (settings.group, *keys))
