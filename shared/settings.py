"""The settings: every field with its row, which says the variable that fills it, its default, how it is read, and its effect.

App settings reach a function as environment variables, so a setting's name is its variable's name. ``settings_reader`` reads
them, ``setting_rules`` has what holds between several, and docs/settings_table.py writes the docs' table from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared import setting_parsers as parse
from shared import setting_rows as env
from shared.names import printable
from shared.setting_parsers import DEFAULT_SCHEDULE as DEFAULT_SCHEDULE
from shared.setting_parsers import DEFAULT_SCHEDULE_INTERVAL_S as DEFAULT_SCHEDULE_INTERVAL_S
from shared.setting_rows import REQUIRED as REQUIRED
from shared.setting_rules import NOT_SUPPORTED as _NOT_SUPPORTED  # noqa: F401

DEFAULT_SCHEMA = "id TEXT user TEXT text TEXT location TEXT hashtags TAG SEPARATOR ,"
DEFAULT_JSON_SCHEMA = (
    "$.id AS id TEXT $.user AS user TEXT $.text AS text TEXT $.location AS location TEXT "
    "$.hashtags AS hashtags TAG SEPARATOR ,"
)
"""INDEX_SCHEMA's default with STORE_AS=json."""
TRACE_FIELDS = frozenset(("traceparent", "tracestate"))
"""The fields in which a producer leaves its trace context (W3C Trace Context), flat in the entry."""


@dataclass(frozen=True, slots=True)
class EntraSettings:
    """Whose tokens of Microsoft Entra ID to log in with."""

    credential: str = field(
        metadata=env.get(
            "REDIS_ENTRA_CREDENTIAL", "managed", parse.one_of("managed", "default"),
            "whose tokens: the platform's `managed` identity, or what azure-identity's `default` credential finds "
            "(AKS workload identity, az login, …)",
        )
    )  # fmt: skip
    client_id: str | None = field(
        metadata=env.get(
            "REDIS_ENTRA_CLIENT_ID", "", parse.optional,
            "of a user-assigned identity; none: the system-assigned one",
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Where Redis is and how to log in. The password is left out of ``repr``."""

    host: str = field(
        metadata=env.get(
            "REDIS_HOST", REQUIRED, parse.hosts_and_ports,
            "`host` or `host:port`; the port is 6380 with TLS, 6379 without; of a cluster also several, separated by commas",
        )
    )  # fmt: skip
    port: int = field(metadata=env.without_row("REDIS_HOST may name it, and REDIS_TLS says its default"))
    username: str | None = field(
        metadata=env.get("REDIS_USERNAME", "", parse.optional, "an ACL user; none: the default user")
    )
    password: str | None = field(
        repr=False,
        metadata=env.get(
            "REDIS_PASSWORD", "", parse.optional, "none if missing or empty; never printed", is_verbatim=True
        ),
    )
    tls: bool = field(
        metadata=env.get("REDIS_TLS", "true", parse.flag, "TLS 1.2 or later, certificate and host name always verified")
    )
    tls_ca_file: str | None = field(
        metadata=env.get("REDIS_TLS_CA_FILE", "", parse.file_name, "a file with the CA of a private certificate")
    )
    entra: EntraSettings | None = field(
        default=None,
        metadata=env.get(
            "REDIS_AUTH", "password", parse.one_of("password", "entra"),
            "`entra`: log in with tokens of Microsoft Entra ID, renewed on the living connections; needs "
            "`requirements-entra.txt`, no password, TLS",
        ),
    )  # fmt: skip
    """None: log in with the password, if there is one."""
    cluster: bool = field(
        default=False,
        metadata=env.get(
            "REDIS_CLUSTER", "false", parse.flag,
            "`true`: REDIS_HOST names one or more servers of a Redis Cluster, which name the others; see below",
        ),
    )  # fmt: skip
    other_hosts: tuple[tuple[str, int], ...] = field(
        default=(), metadata=env.without_row("of a cluster, the servers that REDIS_HOST names after the first")
    )
    tls_name: str | None = field(
        default=None,
        metadata=env.without_row("the name that the certificate has to have; None: the host. A cluster's link sets it"),
    )


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """One stream, one consumer group, and what is to become of the entries that were left behind in it."""

    stream: str = field(
        metadata=env.get(
            "STREAM_NAME", REQUIRED, parse.not_empty, "the stream, such as `tweets_stream`", item_key="name"
        )
    )
    group: str = field(
        metadata=env.get(
            "STREAM_CONSUMER_GROUP_NAME", REQUIRED, parse.not_empty, "the consumer group, such as `redisearch_app_group`",
            item_key="group",
        )
    )  # fmt: skip
    consumer: str = field(
        metadata=env.get(
            "MONITORING_CONSUMER_NAME", REQUIRED, parse.not_empty,
            "the name in the group under which the janitor claims; keep it stable", item_key="consumer",
        )
    )  # fmt: skip
    min_idle_ms: int = field(
        metadata=env.get(
            "MIN_IDLE_TIME_SEC", REQUIRED, parse.whole(0, 10**9, 1000),
            "entries idle for at least this long count as abandoned", unit="s", item_key="min_idle_sec",
        )
    )  # fmt: skip
    action: str = field(
        metadata=env.get(
            "ACTION", "store", parse.one_of("store", "requeue", "handle", "dead_letter", "observe"),
            "what becomes of an abandoned entry: `store` it as a hash, `requeue` it, `handle` it by your own code, move it to "
            "the `dead_letter` stream, or only `observe`", item_key="action",
        )
    )  # fmt: skip
    hash_prefix: str = field(
        metadata=env.get(
            "HASH_PREFIX",
            "tweet:",
            parse.not_empty,
            "an entry is stored under this and its id; refused if a key of the janitor's own (dead letters, rate limit) begins "
            "with it",
            item_key="prefix",
        )
    )
    id_fields: tuple[str, ...] = field(
        metadata=env.get(
            "ID_FIELDS", "id", parse.id_fields,
            "the field that identifies an entry; several, separated by commas, are joined with `:`, and a `:` or `%` inside "
            "a value is percent-escaped; `@entry`: the entry's id in the stream; `data$.order.id`: a member inside a field "
            "that holds JSON, which needs gather", item_key="id_fields",
        )
    )  # fmt: skip
    index_name: str = field(
        metadata=env.get(
            "INDEX_NAME", "tweets-index", parse.not_empty,
            "created if it is missing (unless INDEX_CREATE is `never`), never dropped or altered",
            item_key="index",
        )
    )  # fmt: skip
    index_schema: tuple[str, ...] | None = field(
        metadata=env.get(
            "INDEX_SCHEMA", DEFAULT_SCHEMA, parse.schema,
            "what follows SCHEMA in FT.CREATE; `off`: no index is wanted; with STORE_AS=json each field is a JSONPath, "
            "the default too (`$.id AS id TEXT …`)", item_key="schema",
        )
    )  # fmt: skip
    """None: no index is wanted."""
    index_create: str = field(
        metadata=env.get(
            "INDEX_CREATE", "if-missing", parse.one_of("if-missing", "never"),
            "`if-missing`: the janitor creates INDEX_NAME where there is none; `never`: it does not, for those who make their "
            "indexes themselves or whose INDEX_NAME is an alias", item_key="index_create",
        )
    )  # fmt: skip
    settle_mode: str = field(
        metadata=env.get(
            "SETTLE_MODE", "auto", parse.one_of("auto", "script", "gather"),
            "`script` settles inside Redis (7.0 or later), `gather` from here; `auto` asks the server which it may",
            item_key="settle_mode",
        )
    )  # fmt: skip
    on_conflict: str = field(
        metadata=env.get(
            "ON_CONFLICT", "overwrite", parse.one_of("overwrite", "newer", "keep"),
            "what an entry does to a hash that is there: `overwrite` it, replace it if the entry is `newer`, or `keep` it; under "
            "`newer` the hash's field `stream_entry_id` is the janitor's, and an entry that brings one of its own is at fault",
            item_key="on_conflict",
        )
    )  # fmt: skip
    dead_letter_stream: str | None = field(
        metadata=env.get(
            "DEAD_LETTER_STREAM", "<STREAM_NAME>:dead", parse.unless_off,
            "where entries go that cannot be stored through their own fault; `off`: they stay pending; beside STREAMS "
            "the variable is a prefix: `<it>:<name>`", item_key="dead_letter_stream",
        )
    )  # fmt: skip
    """None: entries that cannot be stored stay pending."""
    max_attempts: int = field(
        metadata=env.get(
            "MAX_ATTEMPTS", "10", parse.whole(1, 10**6),
            "that end in an entry's own, unknown error before it is dead-lettered", unit="attempts", item_key="max_attempts",
        )
    )  # fmt: skip
    reap_after_ms: int = field(
        metadata=env.get(
            "REAP_CONSUMERS_AFTER_SEC", "0", parse.whole(0, 10**9, 1000),
            "consumers idle for this long with nothing pending are removed from the group; 0: never",
            unit="s", item_key="reap_consumers_after_sec",
        )
    )  # fmt: skip
    reap_keep: tuple[str, ...] = field(
        metadata=env.get(
            "REAP_KEEP", "", parse.patterns, "names (glob patterns, separated by commas) that are never removed",
            item_key="reap_keep",
        )
    )  # fmt: skip
    ack_replicas: int | None = field(
        metadata=env.get(
            "ACK_REPLICAS", "auto", parse.word_or("auto", None, parse.whole(0, 100)),
            "that must confirm a hash (WAIT) before its entry is acknowledged; a number above 0 forces gather mode; `auto`: "
            "1 for gather in a cluster that has replicas, else 0", unit="replicas", item_key="ack_replicas",
        )
    )  # fmt: skip
    """None: 1 in a cluster that has replicas, else 0; and a script, whose writes lie on one server, needs none."""
    keep_trace_fields: bool = field(
        metadata=env.get(
            "KEEP_TRACE_FIELDS", "false", parse.flag,
            "store an entry's `traceparent` and `tracestate` fields in its hash too", item_key="keep_trace_fields",
        )
    )  # fmt: skip
    rate_limit: int = field(
        default=0,
        metadata=env.get(
            "RECOVERY_RATE_LIMIT", "0", parse.whole(0, 10**6),
            "that all janitors of a stream's group together may take up, in any one second, at most 1,000,000; 0: any number; "
            "see below", unit="entries/s", item_key="rate_limit",
        ),
    )  # fmt: skip
    recovered_channel: str | None = field(
        default=None,
        metadata=env.get(
            "RECOVERED_CHANNEL", "", parse.optional,
            "where others are told of the hashes that were written (PUBLISH); none: nowhere; see below",
            item_key="recovered_channel",
        ),
    )  # fmt: skip
    handler: str | None = field(
        default=None,
        metadata=env.get(
            "HANDLER", "", parse.handler_name,
            "under ACTION=handle, your code: `module:name`, or a handler that ships, `webhook` or `sql`", item_key="handler",
        )
    )  # fmt: skip
    handler_path: str = field(
        default=".",
        metadata=env.get(
            "HANDLER_PATH", ".", parse.folder,
            "the folder in which HANDLER's module is looked for, after all others; by default the working directory",
            item_key="handler_path",
        )
    )  # fmt: skip
    handler_timeout_ms: int = field(
        default=7500,
        metadata=env.get(
            "HANDLER_TIMEOUT_SEC", "7.5", parse.milliseconds,
            "what one call may take; at most SWEEP_BUDGET_SEC - 2. Not set: half of SWEEP_BUDGET_SEC", unit="s",
            item_key="handler_timeout_sec",
        )
    )  # fmt: skip
    handler_batch: int = field(
        default=1,
        metadata=env.get(
            "HANDLER_BATCH", "1", parse.whole(1, 500),
            "that a call gets whenever so many are there, at most 500 and 2 MB (or a single one)", unit="entries",
            item_key="handler_batch",
        )
    )  # fmt: skip
    handler_url: str | None = field(
        default=None,
        repr=False,
        metadata=env.get(
            "HANDLER_URL", "", parse.optional,
            "where `webhook` posts to (https), or the database of `sql` (by default a SQLite file); a secret, never printed",
            item_key="handler_url",
        )
    )  # fmt: skip
    handler_secret: str | None = field(
        default=None,
        repr=False,
        metadata=env.get(
            "HANDLER_SECRET", "", parse.optional,
            "with which `webhook` signs, 24 to 64 random bytes in base64; a secret, never printed", item_key="handler_secret",
        )
    )  # fmt: skip
    sql_table: str | None = field(
        default=None,
        metadata=env.get("SQL_TABLE", "", parse.optional, "into which `sql` inserts", item_key="sql_table"),
    )
    sql_columns: str | None = field(
        default=None,
        metadata=env.get(
            "SQL_COLUMNS", "", parse.optional,
            "which of its columns is filled from which field: `column=field, column=field`", item_key="sql_columns",
        )
    )  # fmt: skip
    max_deliveries: int = field(
        default=0,
        metadata=env.get(
            "MAX_DELIVERIES", "off", parse.word_or("off", 0, parse.whole(0, 10**6)),
            "an entry that was delivered so often is dead-lettered before anything else is done with it; `off`: never. Not set: "
            "10 for ACTION `requeue` and `handle`", unit="deliveries", item_key="max_deliveries",
        )
    )  # fmt: skip
    """0: any number."""
    retry_backoff: float = field(
        default=1.0,
        metadata=env.get(
            "RETRY_BACKOFF", "off", parse.word_or("off", 1.0, parse.number(1, 100)),
            "by how much the idle time that an entry needs grows with each delivery; `off` (or 1): it does not. Not set: 2 for "
            "ACTION=handle", item_key="retry_backoff",
        )
    )  # fmt: skip
    """1: every entry is due after the minimum idle time."""
    retry_backoff_max_ms: int = field(
        default=3_600_000,
        metadata=env.get(
            "RETRY_BACKOFF_MAX_SEC", "3600", parse.whole(1, 10**9, 1000),
            "the longest idle time that RETRY_BACKOFF asks for; at least MIN_IDLE_TIME_SEC", unit="s",
            item_key="retry_backoff_max_sec",
        )
    )  # fmt: skip
    dead_letter_brake: bool = field(
        default=True,
        metadata=env.get(
            "DEAD_LETTER_BRAKE", "on", parse.flag,
            "when over half of the last 100 abandoned entries would be dead-lettered for a certain fault, they stay pending and "
            "the sweep fails, as a setting is probably wrong; `off`: for those who mean it", item_key="dead_letter_brake",
        )
    )  # fmt: skip
    store_as: str = field(
        default="hash",
        metadata=env.get(
            "STORE_AS", "hash", parse.one_of("hash", "json"),
            "`json`: as a document (JSON.SET, which needs RedisJSON) instead of a hash; INDEX_SCHEMA is of JSONPath then",
            item_key="store_as",
        ),
    )  # fmt: skip
    payload_field: str | None = field(
        default=None,
        metadata=env.get(
            "PAYLOAD_FIELD", "", parse.optional,
            "with STORE_AS=json: the field that holds the document, which has to be a JSON object; none: the document is the "
            "entry's fields, as strings", item_key="payload_field",
        ),
    )  # fmt: skip
    """None: the document is made of the entry's fields."""
    store_ttl_ms: int | None = field(
        default=None,
        metadata=env.get(
            "STORE_TTL_SEC", "", parse.word_or("off", None, parse.whole(0, 10**9, 1000)),
            "that what is stored lives from its write on, so an entry that is stored and acknowledged expires; `0`: a TTL that "
            "the key has is removed; none, or `off`: it stays as it is", unit="s", item_key="store_ttl_sec",
        ),
    )  # fmt: skip
    """None: a key's expiry stays as it is; 0: it is removed."""
    requeue_to: str | None = field(
        default=None,
        metadata=env.get(
            "REQUEUE_TO", "", parse.optional,
            "with ACTION=requeue: the stream to which entries are added again; none: STREAM_NAME itself",
            item_key="requeue_to",
        ),
    )  # fmt: skip
    """None: the stream itself; ``requeue_target`` says which."""
    max_requeues: int = field(
        default=5,
        metadata=env.get(
            "MAX_REQUEUES", "5", parse.word_or("off", 0, parse.whole(0, 10**6)),
            "after which an entry is dead-lettered instead, by the `requeue_count` that it carries; `off` or 0: never",
            unit="requeues", item_key="max_requeues",
        ),
    )  # fmt: skip
    """0: no limit."""
    requeue_with_other_groups: bool = field(
        default=False,
        metadata=env.get(
            "REQUEUE_WITH_OTHER_GROUPS", "false", parse.flag,
            "requeue into STREAM_NAME although other groups read it, which then see each requeued entry as a new one",
            item_key="requeue_with_other_groups",
        ),
    )  # fmt: skip

    retain_ms: int | None = field(
        default=None,
        metadata=env.get(
            "RETAIN_SEC", "off", parse.word_or("off", None, parse.whole(1, 10**9, 1000)),
            "entries older than this that every group has finished with are trimmed from the stream; `off`: never",
            unit="s", item_key="retain_sec",
        ),
    )  # fmt: skip
    """None: nothing is trimmed."""
    retain_ignore_groups: tuple[str, ...] = field(
        default=(),
        metadata=env.get(
            "RETAIN_IGNORE_GROUPS", "", parse.patterns,
            "groups (`*` and `?`, separated by commas) that hold nothing: what they have pending or unread is trimmed all "
            "the same; never the janitor's own", item_key="retain_ignore_groups",
        ),
    )  # fmt: skip
    dead_letter_retain_ms: int | None = field(
        default=None,
        metadata=env.get(
            "DEAD_LETTER_RETAIN_SEC", "off", parse.word_or("off", None, parse.whole(1, 10**9, 1000)),
            "dead letters older than this are thrown away, unless a group on their stream needs them; `off`: never",
            unit="s", item_key="dead_letter_retain_sec",
        ),
    )  # fmt: skip
    """None: dead letters remain."""
    own_groups: tuple[str, ...] = field(
        default=(), metadata=env.without_row("the groups that the settings name on this stream, in their order")
    )

    @property
    def label(self) -> str:
        """Stream and group, for log lines."""
        return f"{printable(self.stream)}/{printable(self.group)}"

    @property
    def retains(self) -> bool:
        """Whether anything is trimmed by its age."""
        return self.retain_ms is not None or self.dead_letter_retain_ms is not None

    @property
    def requeue_target(self) -> str:
        """The stream to which requeued entries are added."""
        return self.stream if self.requeue_to is None else self.requeue_to


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a tick needs to know. One Redis, and one item in ``streams`` for each stream it watches."""

    redis: RedisSettings = field(metadata=env.without_row("a class of its own"))
    streams: tuple[StreamSettings, ...] = field(
        metadata=env.get(
            "STREAMS", "", parse.items, "several streams in one app, instead of STREAM_NAME; see below"
        )
    )  # fmt: skip
    interval_s: float = field(
        metadata=env.get("MONITOR_SCHEDULE", DEFAULT_SCHEDULE, parse.interval_s, "NCRONTAB, six fields, seconds first")
    )
    budget_s: float = field(
        metadata=env.get(
            "SWEEP_BUDGET_SEC", "15", parse.seconds,
            "what one sweep may take; under the schedule's interval (three quarters of a shorter one, if not set)", unit="s",
        )
    )  # fmt: skip
    page_size: int = field(
        metadata=env.get(
            "PAGE_SIZE", "1000", parse.whole(1, 5000),
            "of the pending entries list read at a time, at most 5000 (1,000 take the server about 1.2 ms)", unit="rows",
        )
    )  # fmt: skip
    concurrency: int = field(
        metadata=env.get(
            "CONCURRENCY", "4", parse.whole(1, 64),
            "under way at once in gather mode, at most 64; those of all streams that one server holds", unit="batches",
        )
    )  # fmt: skip
    handler_concurrency: int = field(
        default=4,
        metadata=env.get(
            "HANDLER_CONCURRENCY", "4", parse.whole(1, 64),
            "that the process makes at once, at most 64, whatever the number of streams", unit="calls",
        )
    )  # fmt: skip

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """The settings that ``environment`` (default: the process's) holds.

        Raises:
            SettingsError: with every bad or missing variable, each by its name; no value of a secret is in it.
        """
        from shared.settings_reader import read_settings

        return read_settings(environment)


SETTINGS_CLASSES = (RedisSettings, EntraSettings, Settings, StreamSettings)
ROWS = {row.variable: row for settings_class in SETTINGS_CLASSES for _, row in env.rows_of(settings_class)}
DEFAULTS = {variable: row.default for variable, row in ROWS.items()}
"""Every variable that is read, with its default."""
ITEM_KEYS = {row.item_key: variable for variable, row in ROWS.items() if row.item_key}
"""The key of an item of STREAMS → the flat variable whose value it has instead, for that stream."""
