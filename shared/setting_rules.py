"""What holds between settings, each rule a function in one list: it yields the variable at fault, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from shared.hash_tags import has_hash_tag

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
    script_waits_for_no_replicas,
    rate_limit_has_a_key_in_the_slot,
    dead_letters_lie_elsewhere,
)
"""For each stream, with its own values."""
