"""The search index: there, covering the hashes, of the wanted schema, and holding what was stored.

Sources: FT.INFO, FT.CREATE, FT.SEARCH (RediSearch 2.10). An HSET succeeds although the index refuses the document or does
not cover its key, so stored is not yet searchable, and only the index can tell.
In a cluster there may be one of them for each shard: see shard_indexes.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import ResponseError

from monitor.entry_key import EntryKey
from monitor.report import Tally
from shared.advice import missing_right
from shared.index_schema import field_types as field_types
from shared.redis_client import Argument, Command, RedisLink, Reply, mapping_of, raise_first
from shared.retry import code_of
from shared.settings import StreamSettings

if TYPE_CHECKING:
    from shared.cluster import ClusterLink

OK, OFF = "ok", "off"
NO_MODULE: Final = "this server has no search module; entries are recovered all the same"
KEYS_ASKED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class FieldError:
    """The last document that one field's value kept out of the index."""

    failures: int
    """How many there were of this field; only grows."""
    key: bytes
    reason: str
    """Without the value that the index quotes."""


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What FT.INFO told of the index."""

    status: str
    """``ok``, ``off``, or what is wrong with it, in words."""
    failures: int = 0
    """Documents that it refused since it was created; only grows."""
    missing: tuple[str, ...] = ()
    """The name that is not there; of a cluster's shards those that have none."""
    documents: int = 0
    last_errors: Mapping[tuple[str, bytes], FieldError] = field(default_factory=dict)
    """By index and field."""
    has_module: bool = True
    """Whether the server knows of indexes at all."""

    @property
    def is_missing(self) -> bool:
        return bool(self.missing)

    @property
    def is_there(self) -> bool:
        return self.status != OFF and self.has_module and not self.is_missing

    def reasons_since(self, before: IndexInfo) -> dict[bytes, str]:
        """Hash key → why it was refused, of each field's last refusal if that was after ``before``."""
        none = FieldError(0, b"", "")
        return {
            error.key: error.reason
            for name, error in self.last_errors.items()
            if error.failures > before.last_errors.get(name, none).failures
        }


async def index_names(link: RedisLink, name: str) -> tuple[str, ...]:
    """What an index of this name is called: by that name, or by one for each of a cluster's shards.

    Raises:
        redis.exceptions.RedisError: not known (in a cluster only); asking again is safe.
    """
    if not link.is_cluster:
        return (name,)
    from monitor.shard_indexes import shard_indexes  # only then: a cold start pays for imports

    return (await shard_indexes(cast("ClusterLink", link), name)).names


class SearchIndex:
    """The index that is to cover one stream's hashes."""

    def __init__(self, link: RedisLink, settings: StreamSettings, aliases: set[str] | None = None) -> None:
        """``aliases``: names that answered as another index before, kept from sweep to sweep."""
        self._link = link
        self._settings = settings
        self._key = EntryKey(settings)
        self._aliases = set() if aliases is None else aliases
        self.names: tuple[str, ...] = (settings.index_name,)
        """What it is called in this Redis; known once it was asked for."""

    async def build_commands(self) -> list[Command]:
        """The commands that ask for its state, to travel with others; none if no index is wanted.

        Raises:
            redis.exceptions.RedisError: it is not known what it is called here (in a cluster only).
        """
        if self._settings.index_schema is None:
            return []
        self.names = await index_names(self._link, self._settings.index_name)
        return [("FT.INFO", name) for name in self.names]

    def parse_replies(self, replies: Sequence[Reply]) -> IndexInfo:
        """Read the replies to ``build_commands``."""
        if not replies:
            return IndexInfo(OFF)
        infos = [self._parse(name, reply) for name, reply in zip(self.names, replies, strict=True)]
        wrong = [info for info in infos if info.status != OK]
        return IndexInfo(
            wrong[0].status if wrong else OK,
            sum(info.failures for info in infos),
            tuple(name for info in infos for name in info.missing),
            sum(info.documents for info in infos),
            {where: error for info in infos for where, error in info.last_errors.items()},
            all(info.has_module for info in infos),
        )

    def _parse(self, name: str, reply: Reply) -> IndexInfo:
        if isinstance(reply, Exception):
            return _trouble(name, reply)
        info = mapping_of(reply)
        if info.get(b"index_name") not in (None, name.encode()):
            self._aliases.add(name)
        wrong = (
            self._filtered(name, info)
            or self._wrong_kind(name, info)
            or self._wrong_prefix(name, info)
            or self._wrong_schema(name, info)
        )
        failures, documents = int(info.get(b"hash_indexing_failures", 0)), int(info.get(b"num_docs", 0))
        last_errors = {(name, field): error for field, error in _last_errors(info).items()}
        return IndexInfo(wrong or OK, failures, (), documents, last_errors)

    async def ask(self) -> IndexInfo:
        """Its state now.

        Raises:
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: not known.
        """
        commands = await self.build_commands()
        return self.parse_replies(await self._link.pipelined(commands)) if commands else IndexInfo(OFF)

    async def create(self, missing: Sequence[str] = ()) -> IndexInfo:
        """Create it, or those of its names that are ``missing``; one that somebody else created meanwhile will do.

        Not where INDEX_CREATE or another index speaks against it. Never drops or alters one.
        """
        from monitor.missing_index import reason_against  # only then: a cold start pays for imports

        prefix: tuple[Argument, ...] = ("ON", self._settings.store_as.upper(), "PREFIX", 1, self._settings.hash_prefix)
        for name in missing or self.names:
            against = await reason_against(self._link, self._settings, name, self._aliases)
            if against:
                return IndexInfo(against, missing=(name,))
            try:
                await self._link.call("FT.CREATE", name, *prefix, "SCHEMA", *(self._settings.index_schema or ()))
            except ResponseError as error:
                if "already exists" not in str(error):
                    return _not_created(name, error)
        return await self.ask()

    async def refused(self, entry_ids: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Those of the stored entries whose documents the index does not hold: entry id and hash key.

        Read-only. Entries that were trimmed from the stream meanwhile cannot be asked about and are left out.
        """
        missing: list[tuple[bytes, bytes]] = []
        for first in range(0, len(entry_ids), KEYS_ASKED_AT_ONCE):
            keys = await self._hash_keys(entry_ids[first : first + KEYS_ASKED_AT_ONCE])
            held = await self._held(list(keys.values())) if keys else set()
            missing += [(entry_id, key) for entry_id, key in keys.items() if key not in held]
        return missing

    async def _hash_keys(self, entry_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        stream = self._settings.stream
        replies = await self._link.pipelined(("XRANGE", stream, entry_id, entry_id) for entry_id in entry_ids)
        raise_first(replies)
        keys = {}
        for entry_id, reply in zip(entry_ids, replies, strict=True):
            key, _ = self._key.of(reply[0][1], entry_id) if reply else (None, None)
            if key is not None:
                keys[entry_id] = key
        return keys

    async def _held(self, keys: Sequence[bytes]) -> set[bytes]:
        inkeys: tuple[Argument, ...] = ("INKEYS", len(keys), *keys)
        replies = await self._link.pipelined(
            ("FT.SEARCH", name, "*", *inkeys, "NOCONTENT", "LIMIT", 0, len(keys)) for name in self.names
        )
        raise_first(replies)
        held: set[bytes] = set()
        for reply in replies:
            held.update((row[b"id"] for row in reply[b"results"]) if isinstance(reply, dict) else reply[1:])
        return held

    def _wrong_kind(self, name: str, info: Mapping[bytes, Any]) -> str | None:
        kind = definition_of(info).get(b"key_type", b"").decode("utf-8", "replace")
        if kind.lower() in ("", self._settings.store_as):
            return None
        return f"{name} is an index ON {kind.upper()}, not {self._settings.store_as.upper()} as STORE_AS says"

    def _filtered(self, name: str, info: Mapping[bytes, Any]) -> str | None:
        if not definition_of(info).get(b"filter"):
            return None
        return f"{name} has a FILTER: what does not match it is stored, and no search finds it"

    def _wrong_prefix(self, name: str, info: Mapping[bytes, Any]) -> str | None:
        definition = definition_of(info)
        prefixes: list[bytes] = definition.get(b"prefixes", [])
        wanted = self._settings.hash_prefix.encode()
        if any(wanted.startswith(prefix) for prefix in prefixes if prefix != b"*") or b"*" in prefixes or not prefixes:
            return None
        held = ", ".join(prefix.decode("utf-8", "replace") for prefix in prefixes)
        return f"{name} covers {held!r}, not HASH_PREFIX {self._settings.hash_prefix!r}"

    def _wrong_schema(self, name: str, info: Mapping[bytes, Any]) -> str | None:
        held = {}
        for row in map(mapping_of, info.get(b"attributes", [])):
            held[row.get(b"identifier")] = row.get(b"type")
        wanted = field_types(self._settings.index_schema or ())
        wrong = [field for field, kind in wanted.items() if held.get(field.encode()) != kind.encode()]
        if not wrong:
            return None
        return f"{name} has another schema than INDEX_SCHEMA: {', '.join(wrong)}"


def definition_of(info: Mapping[bytes, Any]) -> dict[bytes, Any]:
    """What FT.INFO says the index is made of."""
    return mapping_of(info.get(b"index_definition", {}))


def _trouble(name: str, error: Exception) -> IndexInfo:
    text = str(error).lower()
    if code_of(error) == "NOPERM":
        return IndexInfo(f"no right to look at {name} (FT.INFO)")
    if "unknown command" in text:
        return IndexInfo(NO_MODULE, has_module=False)
    if "unknown index name" in text or "no such index" in text:
        return IndexInfo(f"{name} is missing", missing=(name,))
    return IndexInfo(f"{name} cannot be looked at ({code_of(error)})")


def _not_created(name: str, error: ResponseError) -> IndexInfo:
    code = code_of(error)
    reason = _kind_of(str(error)) if code == "ERR" else code
    if code == "NOPERM":
        reason = f"the Redis user lacks {missing_right(error)}"
    return IndexInfo(f"{name} is missing and could not be created ({reason})", missing=(name,))


def _kind_of(text: str) -> str:
    """What an error of the index says before it quotes a value."""
    return text.split(":", 1)[0].split("'", 1)[0].split('"', 1)[0].strip() or "no reason given"


def _last_errors(info: Mapping[bytes, Any]) -> dict[bytes, FieldError]:
    errors: dict[bytes, FieldError] = {}
    for row in map(mapping_of, info.get(b"field statistics", [])):
        error = mapping_of(row.get(b"Index Errors", {}))
        text, key = error.get(b"last indexing error", b"N/A"), error.get(b"last indexing error key", b"N/A")
        if key != b"N/A":
            name: bytes = row.get(b"identifier", b"")
            reason = f"{_kind_of(text.decode('utf-8', 'replace'))} (field {name.decode('utf-8', 'replace')})"
            errors[name] = FieldError(int(error.get(b"indexing failures", 0)), key, reason)
    return errors


class RefusedDocuments:
    """Finds, during a sweep, the stored entries that the index refused.

    The index counts its refusals, of everybody's writes; so long as the count stands still there is nothing to look for.
    Once it grew, every entry that the sweep stored since is looked up: a batch that was under way when the count was read
    has its entries noted only afterwards, and entries that share a key make the found ones no match for the count.
    """

    WINDOW: Final = 5000
    """Stored entries between two looks at the count."""

    def __init__(self, index: SearchIndex, info: IndexInfo) -> None:
        self._index = index
        self._before = info
        self._has_grown = False
        self._is_on = info.is_there
        self._window: list[bytes] = []

    async def note(self, stored: Sequence[bytes]) -> Tally:
        """Remember what was stored; look at the count every ``WINDOW`` entries, and return what was found."""
        if self._is_on:
            self._window += stored
            if len(self._window) >= self.WINDOW:
                return await self.look()
        return Tally()

    async def look(self) -> Tally:
        """Ask the index now; names what it refused of the entries noted since the last look."""
        tally = Tally()
        if not (self._is_on and self._window):
            return tally
        window, self._window = self._window, []
        try:
            refused, info = await self._refused_among(window)
        except BaseException:
            self._window = window + self._window  # the reply was lost: the next look asks again
            raise
        reasons = info.reasons_since(self._before)
        for entry_id, key in refused:
            tally.name_unsearchable(reasons.get(key, "refused by the index"), entry_id)
        return tally

    async def _refused_among(self, window: Sequence[bytes]) -> tuple[list[tuple[bytes, bytes]], IndexInfo]:
        info = await self._index.ask()
        self._has_grown = self._has_grown or info.failures > self._before.failures
        if self._has_grown and info.is_there:
            return await self._index.refused(window), info
        return [], info
