"""What holds between settings, each rule a function in one list: it yields the variable at fault, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from shared.hash_tags import has_hash_tag
from shared.id_fields import fields_read, first_path
from shared.index_schema import field_types

if TYPE_CHECKING:
    from shared.settings import StreamSettings
    from shared.settings_reader import Reading as Values

NOT_SUPPORTED: Final = {
    "REDIS_SENTINEL": "Sentinel is not supported: name the primary in REDIS_HOST, or a proxy that follows it",
    "REDIS_SENTINELS": "Sentinel is not supported: name the primary in REDIS_HOST, or a proxy that follows it",
    "REDIS_DB": "database numbers are not supported: the stream has to be in database 0",
    "REDIS_TLS_CERT_FILE": "client certificates are not supported: log in with REDIS_USERNAME and REDIS_PASSWORD",
    "REDIS_TLS_KEY_FILE": "client certificates are not supported: log in with REDIS_USERNAME and REDIS_PASSWORD",
    "REDIS_TLS_VERIFY": "certificates are always verified: for a private CA set REDIS_TLS_CA_FILE",
    "REDIS_SSL_CERT_REQS": "certificates are always verified: for a private CA set REDIS_TLS_CA_FILE",
}
_THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")
Problems = Iterator[tuple[str, str]]


def what_is_not_supported(values: Values) -> Problems:
    for variable, reason in NOT_SUPPORTED.items():
        if values.is_written(variable):
            yield variable, reason


def ca_file_needs_tls(values: Values) -> Problems:
    if values.is_written("REDIS_TLS_CA_FILE") and not values["REDIS_TLS"]:
        yield "REDIS_TLS_CA_FILE", "is set, but REDIS_TLS is false: nothing would be verified"


def username_needs_password(values: Values) -> Problems:
    if values["REDIS_AUTH"] == "password" and values["REDIS_USERNAME"] and not values["REDIS_PASSWORD"]:
        yield "REDIS_USERNAME", "is set, but REDIS_PASSWORD is not"


def several_hosts_need_a_cluster(values: Values) -> Problems:
    if len(values["REDIS_HOST"] or ()) > 1 and not values["REDIS_CLUSTER"]:
        yield "REDIS_HOST", "several servers are for a cluster: set REDIS_CLUSTER=true, or name one"


def entra_settings_need_entra(values: Values) -> Problems:
    for variable in ("REDIS_ENTRA_CREDENTIAL", "REDIS_ENTRA_CLIENT_ID"):
        if values["REDIS_AUTH"] == "password" and values.is_written(variable):
            yield variable, "is set, but REDIS_AUTH is not entra"


def entra_stands_alone(values: Values) -> Problems:
    if values["REDIS_AUTH"] != "entra":
        return
    if values["REDIS_PASSWORD"]:
        yield "REDIS_PASSWORD", "is set, but REDIS_AUTH=entra logs in with tokens: remove one of them"
    if values["REDIS_USERNAME"]:
        yield "REDIS_USERNAME", "is set, but with REDIS_AUTH=entra the token says who logs in: remove it"
    (host, _), *_ = values["REDIS_HOST"] or [("", None)]
    if not values["REDIS_TLS"] and host.lower() not in _THIS_MACHINE:
        yield "REDIS_TLS", "is false, but with REDIS_AUTH=entra tokens must not travel readable"


def entra_needs_its_package(values: Values) -> Problems:
    if values["REDIS_AUTH"] != "entra":
        return
    import importlib.util

    if importlib.util.find_spec("redis_entraid") is None:
        text = "entra needs a package: pip install -r requirements-entra.txt "
        yield "REDIS_AUTH", text + "(the function app wants its line in requirements.txt)"


def streams_replace_the_one(values: Values) -> Problems:
    if values.is_written("STREAMS") and values.is_written("STREAM_NAME"):
        yield "STREAMS", "is set, and STREAM_NAME too: name every stream in STREAMS"


def budget_fits_the_interval(values: Values) -> Problems:
    is_judged = values.is_written("SWEEP_BUDGET_SEC") and values.is_good("SWEEP_BUDGET_SEC")
    if is_judged and values["SWEEP_BUDGET_SEC"] >= values["MONITOR_SCHEDULE"]:
        yield "SWEEP_BUDGET_SEC", f"must be under the schedule's interval of {values['MONITOR_SCHEDULE']:g} s"


def script_reads_no_paths(values: Values) -> Problems:
    path = first_path(values["ID_FIELDS"])
    if values["SETTLE_MODE"] == "script" and path is not None:
        yield "SETTLE_MODE", f"a script does not read JSON, and ID_FIELDS has the path {path}: say gather or auto"


def newer_needs_its_field(values: Values) -> Problems:
    if values["ON_CONFLICT"] == "newer" and "stream_entry_id" in fields_read(values["ID_FIELDS"]):
        yield (
            "ID_FIELDS",
            "must not have stream_entry_id: under ON_CONFLICT=newer that field of a hash is the janitor's own",
        )


def payload_needs_json(values: Values) -> Problems:
    if values["PAYLOAD_FIELD"] and values["STORE_AS"] != "json":
        yield "PAYLOAD_FIELD", "is set, but STORE_AS is not json: a hash holds every field"


def json_has_no_place_for_an_id(values: Values) -> Problems:
    if values["STORE_AS"] == "json" and values["ON_CONFLICT"] == "newer":
        yield (
            "ON_CONFLICT",
            "newer does not go with STORE_AS=json, as a document has no place for the entry's id: overwrite or keep",
        )


def json_is_indexed_by_paths(values: Values) -> Problems:
    if values["STORE_AS"] != "json" or not values.is_written("INDEX_SCHEMA") or not values["INDEX_SCHEMA"]:
        return
    types = field_types(values["INDEX_SCHEMA"])
    names = [name for name in types if not name.startswith("$")]
    if names:
        yield (
            "INDEX_SCHEMA",
            f"with STORE_AS=json a field is a JSONPath, as in $.{names[0]} AS {names[0]} {types[names[0]]}",
        )
    of_strings = [name for name, kind in types.items() if kind in ("NUMERIC", "VECTOR")]
    if of_strings and not values["PAYLOAD_FIELD"]:
        text = "without PAYLOAD_FIELD a document holds strings, and one that is no"
        yield (
            "INDEX_SCHEMA",
            f"{text} {types[of_strings[0]]} keeps it out of the index: leave {of_strings[0]} out, or set it",
        )


def script_waits_for_no_replicas(values: Values) -> Problems:
    if values["SETTLE_MODE"] == "script" and values["ACK_REPLICAS"]:
        yield "ACK_REPLICAS", "needs SETTLE_MODE gather or auto: a script cannot wait for replicas"


def rate_limit_has_a_key_in_the_slot(values: Values) -> Problems:
    stream = values["STREAM_NAME"] or ""
    if values["RECOVERY_RATE_LIMIT"] and "}" in stream and not has_hash_tag(stream) and values["REDIS_CLUSTER"]:
        text = "in a cluster its key has to lie in the stream's slot, and a stream whose name has a } but no {tag} "
        yield "RECOVERY_RATE_LIMIT", text + "leaves no way to name it"


def dead_letters_lie_elsewhere(values: Values) -> Problems:
    name = values["DEAD_LETTER_STREAM"]
    if values.is_written("DEAD_LETTER_STREAM") and name is not None and name == values["STREAM_NAME"]:
        yield "DEAD_LETTER_STREAM", "must not be STREAM_NAME itself"


def handle_has_a_handler(values: Values) -> Problems:
    if values["ACTION"] != "handle":
        return
    if not values["HANDLER"] and values.is_good("HANDLER"):
        yield "HANDLER", "is missing: ACTION=handle calls it; set module:name, webhook or sql"
    needed = {"webhook": ("HANDLER_URL", "HANDLER_SECRET"), "sql": ("SQL_TABLE", "SQL_COLUMNS")}
    for variable in needed.get(values["HANDLER"] or "", ()):
        if not values[variable]:
            yield variable, f"is missing: HANDLER={values['HANDLER']} needs it"


def handle_has_a_lease(values: Values) -> Problems:
    if values["ACTION"] == "handle" and values["MIN_IDLE_TIME_SEC"] == 0:
        yield (
            "MIN_IDLE_TIME_SEC",
            "must be above 0 for ACTION=handle: it is the lease under which an entry is handled",
        )


def handler_fits_the_budget(values: Values) -> Problems:
    if values["ACTION"] != "handle":
        return
    budget_s = budget_of(values)
    if timeout_ms_of(values) > round(1000 * (budget_s - 2)):
        yield "HANDLER_TIMEOUT_SEC", f"must be at most SWEEP_BUDGET_SEC - 2, which is {budget_s - 2:g} s"


def budget_of(values: Values) -> float:
    """SWEEP_BUDGET_SEC; not set, three quarters of a shorter interval."""
    budget_s: float = values["SWEEP_BUDGET_SEC"]
    return budget_s if values.is_written("SWEEP_BUDGET_SEC") else min(budget_s, 0.75 * values["MONITOR_SCHEDULE"])


def timeout_ms_of(values: Values) -> int:
    """HANDLER_TIMEOUT_SEC; not set, half of the budget."""
    timeout_ms: int = values["HANDLER_TIMEOUT_SEC"]
    return timeout_ms if values.is_written("HANDLER_TIMEOUT_SEC") else int(500 * budget_of(values))


def dead_letter_stream_of(values: Values) -> str | None:
    """DEAD_LETTER_STREAM, None for ``off``; not set, the stream's name with ``:dead`` behind it."""
    name: str | None = values["DEAD_LETTER_STREAM"]
    return name if values.is_written("DEAD_LETTER_STREAM") else f"{values['STREAM_NAME']}:dead"


def backoff_ends_above_the_minimum(values: Values) -> Problems:
    least_ms = values["MIN_IDLE_TIME_SEC"] or 0
    if values["RETRY_BACKOFF"] > 1 and values["RETRY_BACKOFF_MAX_SEC"] < least_ms:
        yield "RETRY_BACKOFF_MAX_SEC", "must be at least MIN_IDLE_TIME_SEC, from which RETRY_BACKOFF grows"


STORE_ONLY: Final = {
    "MAX_ATTEMPTS": "counts store's unknown errors",
    "RECOVERED_CHANNEL": "tells of hashes, which only store writes",
}
REQUEUE_ONLY: Final = ("REQUEUE_TO", "MAX_REQUEUES", "REQUEUE_WITH_OTHER_GROUPS")


def settings_of_another_action(values: Values) -> Problems:
    """What is set for an action that is not this stream's would be without effect, and nobody would notice."""
    action = values["ACTION"]
    if action != "store":
        for variable, what in STORE_ONLY.items():
            if values.is_written(variable):
                yield variable, f"{what}, but ACTION is {action}: remove it, or set it for the streams that store only"
    if action not in ("requeue", "observe"):
        for variable in REQUEUE_ONLY:
            if not values.has_default(variable):
                yield variable, f"is set, but ACTION is {action}, not requeue"


def requeued_entries_are_new(values: Values) -> Problems:
    if values["ACTION"] == "requeue" and values["ON_CONFLICT"] == "newer":
        yield (
            "ON_CONFLICT",
            "newer does not go with ACTION=requeue: a requeued entry gets a new id, and would win over newer ones",
        )


def requeue_target_takes_entries(values: Values) -> Problems:
    target = values["REQUEUE_TO"]
    if values["ACTION"] == "requeue" and target is not None and target == dead_letter_stream_of(values):
        yield "REQUEUE_TO", "must not be the dead-letter stream: nothing there would say why"


def dead_letter_needs_its_stream(values: Values) -> Problems:
    if values["ACTION"] == "dead_letter" and values["DEAD_LETTER_STREAM"] is None:
        yield "DEAD_LETTER_STREAM", "is off, but ACTION=dead_letter moves everything there"


def dead_letter_has_no_script(values: Values) -> Problems:
    if values["ACTION"] == "dead_letter" and values["SETTLE_MODE"] == "script":
        yield "SETTLE_MODE", "script does not go with ACTION=dead_letter, which works by pipelines: use auto or gather"


def differing_retention(streams: Sequence[StreamSettings]) -> Iterator[str]:
    """A stream, or a dead-letter stream, for which two items of STREAMS want different retention."""
    of_stream: dict[str, object] = {}
    of_dead_letters: dict[str, object] = {}
    for one in streams:
        wanted = (one.retain_ms, one.retain_ignore_groups)
        if of_stream.setdefault(one.stream, wanted) != wanted:
            yield f"stream {one.stream!r} is there with different retain_sec or retain_ignore_groups: it can have only one"
        dead = one.dead_letter_stream
        if (
            dead is not None
            and of_dead_letters.setdefault(dead, one.dead_letter_retain_ms) != one.dead_letter_retain_ms
        ):
            yield f"dead-letter stream {dead!r} is there with different dead_letter_retain_sec: it can have only one"


Rule = Callable[["Values"], Problems]
RULES: Final[tuple[Rule, ...]] = (
    what_is_not_supported,
    ca_file_needs_tls,
    username_needs_password,
    several_hosts_need_a_cluster,
    entra_settings_need_entra,
    entra_stands_alone,
    entra_needs_its_package,
    streams_replace_the_one,
    budget_fits_the_interval,
)
"""For the settings as a whole."""
STREAM_RULES: Final[tuple[Rule, ...]] = (
    script_reads_no_paths,
    newer_needs_its_field,
    payload_needs_json,
    json_has_no_place_for_an_id,
    json_is_indexed_by_paths,
    script_waits_for_no_replicas,
    rate_limit_has_a_key_in_the_slot,
    dead_letters_lie_elsewhere,
    handle_has_a_handler,
    handle_has_a_lease,
    handler_fits_the_budget,
    backoff_ends_above_the_minimum,
    settings_of_another_action,
    requeued_entries_are_new,
    requeue_target_takes_entries,
    dead_letter_needs_its_stream,
    dead_letter_has_no_script,
)
"""For each stream, with its own values."""
