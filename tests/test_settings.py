from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shared.settings
from shared.errors import SettingsError
from shared.settings import _NOT_SUPPORTED, DEFAULT_SCHEMA, DEFAULTS, REQUIRED, Settings

ROOT = Path(__file__).parent.parent
LEAST = {
    "REDIS_HOST": "example.redis.cache.windows.net",
    "STREAM_NAME": "tweets_stream",
    "STREAM_CONSUMER_GROUP_NAME": "redisearch_app_group",
    "MONITORING_CONSUMER_NAME": "monitoring_app",
    "MIN_IDLE_TIME_SEC": "10",
}


def problems(**changes: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**LEAST, **changes})
    return caught.value.problems


# --- what is read ---------------------------------------------------------------------------------------------------------


def test_the_required_variables_alone_give_the_documented_defaults() -> None:
    settings = Settings.from_env(LEAST)
    (stream,) = settings.streams
    assert (settings.redis.host, settings.redis.port, settings.redis.tls) == (LEAST["REDIS_HOST"], 6380, True)
    assert (settings.redis.username, settings.redis.password, settings.redis.tls_ca_file) == (None, None, None)
    assert (settings.interval_s, settings.budget_s, settings.page_size, settings.concurrency) == (20, 15, 1000, 4)
    assert (stream.stream, stream.group, stream.consumer) == (
        "tweets_stream",
        "redisearch_app_group",
        "monitoring_app",
    )
    assert (stream.min_idle_ms, stream.hash_prefix, stream.id_fields) == (10_000, "tweet:", ("id",))
    assert (stream.index_name, stream.index_schema) == ("tweets-index", tuple(DEFAULT_SCHEMA.split()))
    assert (stream.settle_mode, stream.on_conflict, stream.max_attempts) == ("auto", "overwrite", 10)
    assert (stream.dead_letter_stream, stream.ack_replicas) == ("tweets_stream:dead", None)
    assert (stream.reap_after_ms, stream.reap_keep, stream.keep_trace_fields) == (0, (), False)
    assert (stream.retain_ms, stream.retain_ignore_groups, stream.dead_letter_retain_ms) == (None, (), None)


def test_every_documented_default_may_be_written_out() -> None:
    only_with_entra = {"REDIS_ENTRA_CREDENTIAL"}
    written = {
        name: text
        for name, text in DEFAULTS.items()
        if text is not REQUIRED and "<" not in text and name not in only_with_entra
    }
    assert Settings.from_env({**LEAST, **written}) == Settings.from_env(LEAST)


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_variable_that_is_set_to_nothing_has_its_default(blank: str) -> None:
    blanks = {name: blank for name in DEFAULTS if name not in LEAST and name != "REDIS_PASSWORD"}
    assert Settings.from_env({**LEAST, **blanks}) == Settings.from_env(LEAST)


def test_the_settings_come_from_the_process_unless_others_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == Settings.from_env(LEAST)


@pytest.mark.parametrize(
    ("host", "tls", "expected"),
    [
        ("redis", "true", ("redis", 6380)),
        ("redis", "false", ("redis", 6379)),
        ("redis:10000", "true", ("redis", 10000)),
        ("127.0.0.1:1", "false", ("127.0.0.1", 1)),
        ("redis:65535", "true", ("redis", 65535)),
        ("[::1]", "false", ("::1", 6379)),
        ("[::1]:7000", "false", ("::1", 7000)),
        ("  redis:7000  ", "true", ("redis", 7000)),
    ],
)
def test_the_host_may_name_a_port_and_its_default_follows_tls(host: str, tls: str, expected: tuple[str, int]) -> None:
    redis = Settings.from_env({**LEAST, "REDIS_HOST": host, "REDIS_TLS": tls}).redis
    assert (redis.host, redis.port) == expected


def test_a_cluster_may_be_named_by_several_of_its_servers() -> None:
    hosts = "a.example:7000, [::1] ,b.example"
    redis = Settings.from_env({**LEAST, "REDIS_HOST": hosts, "REDIS_CLUSTER": "true"}).redis
    assert (redis.host, redis.port, redis.other_hosts) == ("a.example", 7000, (("::1", 6380), ("b.example", 6380)))
    (problem,) = problems(REDIS_HOST=hosts)
    assert problem.startswith("REDIS_HOST: several servers are for a cluster")


@pytest.mark.parametrize(
    ("text", "tls"),
    [("true", True), ("True", True), ("1", True), ("yes", True), ("false", False), ("FALSE", False), ("0", False)],
)
def test_a_flag_may_be_written_in_several_ways(text: str, tls: bool) -> None:
    assert Settings.from_env({**LEAST, "REDIS_TLS": text}).redis.tls is tls


@pytest.mark.parametrize("password", ["secret", " leading and trailing ", "pässwörd%:/@#", "a" * 500])
def test_a_password_is_taken_as_it_is(password: str) -> None:
    assert Settings.from_env({**LEAST, "REDIS_PASSWORD": password}).redis.password == password


def test_an_empty_password_is_none() -> None:
    assert Settings.from_env({**LEAST, "REDIS_PASSWORD": ""}).redis.password is None


@pytest.mark.parametrize(
    ("schedule", "budget_s"),
    [("*/20 * * * * *", 15), ("0 * * * * *", 15), ("*/10 * * * * *", 7.5), ("00:00:04", 3), ("* * * * * *", 0.75)],
)
def test_the_default_budget_leaves_a_quarter_of_a_short_interval(schedule: str, budget_s: float) -> None:
    assert Settings.from_env({**LEAST, "MONITOR_SCHEDULE": schedule}).budget_s == budget_s


@pytest.mark.parametrize(
    ("budget", "schedule", "is_refused"),
    [
        ("19.9", "*/20 * * * * *", False),
        ("20", "*/20 * * * * *", True),
        ("20.1", "*/20 * * * * *", True),
        ("15", "*/15 * * * * *", True),
        ("15", "*/7 * * * * *", True),
        ("59", "0 * * * * *", False),
        ("60", "0 * * * * *", True),
    ],
)
def test_a_budget_is_refused_unless_it_is_under_the_interval(budget: str, schedule: str, is_refused: bool) -> None:
    changes = {"SWEEP_BUDGET_SEC": budget, "MONITOR_SCHEDULE": schedule}
    if is_refused:
        (problem,) = problems(**changes)
        assert re.match("SWEEP_BUDGET_SEC: must be under the schedule's interval of", problem)
    else:
        assert Settings.from_env({**LEAST, **changes}).budget_s == float(budget)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("ID_FIELDS", "user, id", "id_fields", ("user", "id")),
        ("ID_FIELDS", "user, @entry, data$.order.id", "id_fields", ("user", "@entry", "data$.order.id")),
        ("INDEX_SCHEMA", "off", "index_schema", None),
        ("INDEX_SCHEMA", "OFF", "index_schema", None),
        ("INDEX_SCHEMA", "a TAG SEPARATOR ';' b TEXT", "index_schema", ("a", "TAG", "SEPARATOR", ";", "b", "TEXT")),
        ("INDEX_CREATE", "Never", "index_create", "never"),
        ("INDEX_CREATE", "if-missing", "index_create", "if-missing"),
        ("DEAD_LETTER_STREAM", "off", "dead_letter_stream", None),
        ("DEAD_LETTER_STREAM", "dead", "dead_letter_stream", "dead"),
        ("ON_CONFLICT", "Newer", "on_conflict", "newer"),
        ("SETTLE_MODE", "GATHER", "settle_mode", "gather"),
        ("STORE_TTL_SEC", "", "store_ttl_ms", None),
        ("STORE_TTL_SEC", "off", "store_ttl_ms", None),
        ("STORE_TTL_SEC", "0", "store_ttl_ms", 0),
        ("STORE_TTL_SEC", "86400", "store_ttl_ms", 86_400_000),
        ("MIN_IDLE_TIME_SEC", "0", "min_idle_ms", 0),
        ("MAX_ATTEMPTS", "1", "max_attempts", 1),
        ("ACK_REPLICAS", "2", "ack_replicas", 2),
        ("ACK_REPLICAS", "0", "ack_replicas", 0),
        ("ACK_REPLICAS", "Auto", "ack_replicas", None),
        ("REAP_CONSUMERS_AFTER_SEC", "3600", "reap_after_ms", 3_600_000),
        ("REAP_KEEP", "worker-*, batch ,", "reap_keep", ("worker-*", "batch")),
        ("KEEP_TRACE_FIELDS", "true", "keep_trace_fields", True),
        ("RETAIN_SEC", "3600", "retain_ms", 3_600_000),
        ("RETAIN_SEC", "Off", "retain_ms", None),
        ("RETAIN_IGNORE_GROUPS", "tail-*, audit", "retain_ignore_groups", ("tail-*", "audit")),
        ("DEAD_LETTER_RETAIN_SEC", "60", "dead_letter_retain_ms", 60_000),
    ],
)
def test_a_variable_reaches_its_field(name: str, text: str, field: str, value: object) -> None:
    assert getattr(Settings.from_env({**LEAST, name: text}).streams[0], field) == value


# --- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LEAST))
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_required_variable_that_is_missing_is_named(name: str, value: str | None) -> None:
    environment = {**LEAST, name: value} if value is not None else {k: v for k, v in LEAST.items() if k != name}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environment)  # type: ignore[arg-type]
    assert caught.value.problems == (f"{name} is missing",)


BAD = {
    "REDIS_HOST": [
        "redis://h",
        "h:0",
        "h:65536",
        "h:port",
        "h:",
        ":6379",
        "user@h",
        "h/0",
        "::1",
        "a b",
        "h:1:2",
        "rediss://:pw@h:1",
    ],
    "MIN_IDLE_TIME_SEC": ["-1", "1.5", "ten", "10s", "1e3", "1_000", "٣", "9" * 30],
    "REDIS_TLS": ["maybe", "2", "-", "truee", "none"],
    "REDIS_TLS_CA_FILE": ["/not/there.pem"],
    "REDIS_USERNAME": ["without-password"],
    "REDIS_AUTH": ["token", "entra id"],
    "REDIS_ENTRA_CREDENTIAL": ["default"],
    "REDIS_ENTRA_CLIENT_ID": ["0000"],
    "REDIS_CLUSTER": ["perhaps", "3"],
    "STREAMS": ["not json", "{}", "[]", "[1]"],
    "MONITOR_SCHEDULE": ["soon", "* * *", "61 * * * * *", "*/20 * * * * * *", "20"],
    "SWEEP_BUDGET_SEC": ["0", "-1", "ten", "inf", "nan", "1e1", "20", "1000"],
    "ID_FIELDS": [",", "id,", "id,id", "a,,b", "$.id", "data$.", "data$.a..b", "data$.a[0]", "a,data$.*"],
    "INDEX_SCHEMA": ["id", "none", "'unbalanced TEXT"],
    "INDEX_CREATE": ["always", "if missing", "true"],
    "PAGE_SIZE": ["0", "-1", "5001", "many", "1.0"],
    "CONCURRENCY": ["0", "-4", "65", "four"],
    "SETTLE_MODE": ["lua", "auto,script", "pipeline"],
    "ACTION": ["drop", "stores"],
    "MAX_DELIVERIES": ["-1", "many", "1000001"],
    "RETRY_BACKOFF": ["0", "0.5", "101", "double"],
    "RETRY_BACKOFF_MAX_SEC": ["0", "an hour"],
    "DEAD_LETTER_BRAKE": ["maybe"],
    "ON_CONFLICT": ["merge", "newest"],
    "DEAD_LETTER_STREAM": ["tweets_stream"],
    "MAX_ATTEMPTS": ["0", "-1", "ten", "1000001"],
    "REAP_CONSUMERS_AFTER_SEC": ["-1", "1h", "0.5"],
    "ACK_REPLICAS": ["-1", "one", "101"],
    "KEEP_TRACE_FIELDS": ["perhaps"],
    "STORE_AS": ["string", "hash,json"],
    "PAYLOAD_FIELD": ["set without STORE_AS=json"],
    "STORE_TTL_SEC": ["-1", "1.5", "1d", "1000000001"],
    "RECOVERY_RATE_LIMIT": ["-1", "0.5", "50/s", "1000001"],
    "REQUEUE_TO": ["other_stream"],
    "MAX_REQUEUES": ["-1", "five", "1000001", "4"],
    "REQUEUE_WITH_OTHER_GROUPS": ["perhaps", "true"],
    "HANDLER": ["billing", "billing:", "a b:c", "http"],
    "HANDLER_PATH": ["/no/such/folder"],
    "HANDLER_TIMEOUT_SEC": ["0", "-1", "soon", "nan"],
    "HANDLER_BATCH": ["0", "501", "all"],
    "HANDLER_CONCURRENCY": ["0", "65", "many"],
    "RETAIN_SEC": ["0", "-1", "7d", "on"],
    "DEAD_LETTER_RETAIN_SEC": ["0", "-1", "7d", "on"],
}
ANYTHING_GOES = {
    "REDIS_PASSWORD",
    "STREAM_NAME",
    "STREAM_CONSUMER_GROUP_NAME",
    "MONITORING_CONSUMER_NAME",
    "HASH_PREFIX",
    "INDEX_NAME",
    "REAP_KEEP",
    "RECOVERED_CHANNEL",
    "HANDLER_URL",
    "HANDLER_SECRET",
    "SQL_TABLE",
    "SQL_COLUMNS",
    "RETAIN_IGNORE_GROUPS",
}


def test_every_variable_has_bad_values_or_none_that_are() -> None:
    assert set(BAD) | ANYTHING_GOES == set(DEFAULTS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_its_variables_name(name: str, value: str) -> None:
    found = problems(**{name: value})
    assert any(re.match(rf"{name}\b", problem) for problem in found), found


@pytest.mark.parametrize("name", sorted(_NOT_SUPPORTED))
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    (problem,) = problems(**{name: "0"})
    assert re.match(rf"{name}: .*(not supported|always verified)", problem)


def test_sentinel_database_numbers_and_client_certificates_are_among_them() -> None:
    assert {"REDIS_SENTINEL", "REDIS_DB", "REDIS_TLS_CERT_FILE"} <= set(_NOT_SUPPORTED)


def test_a_script_reads_no_paths() -> None:
    (problem,) = problems(SETTLE_MODE="script", ID_FIELDS="user,data$.order.id")
    assert problem.startswith("SETTLE_MODE")
    assert "data$.order.id" in problem
    for mode in ("gather", "auto"):
        Settings.from_env({**LEAST, "ID_FIELDS": "user,data$.order.id", "SETTLE_MODE": mode})


def test_under_newer_the_guards_own_field_is_no_id() -> None:
    (problem,) = problems(ON_CONFLICT="newer", ID_FIELDS="user,stream_entry_id")
    assert problem.startswith("ID_FIELDS")
    Settings.from_env({**LEAST, "ID_FIELDS": "user,stream_entry_id"})


JSON = {**LEAST, "STORE_AS": "json"}


def test_documents_have_a_schema_of_paths_as_their_default() -> None:
    (stream,) = Settings.from_env(JSON).streams
    assert stream.index_schema is not None
    assert stream.index_schema[:4] == ("$.id", "AS", "id", "TEXT")
    assert Settings.from_env({**JSON, "INDEX_SCHEMA": "off"}).streams[0].index_schema is None


@pytest.mark.parametrize("schema", ["id TEXT", "$.id AS id TEXT user TEXT"])
def test_a_schema_without_paths_finds_nothing_in_documents_and_is_refused(schema: str) -> None:
    (problem,) = problems(STORE_AS="json", INDEX_SCHEMA=schema)
    assert problem.startswith("INDEX_SCHEMA: with STORE_AS=json a field is a JSONPath, as in $.")


@pytest.mark.parametrize("kind", ["NUMERIC", "VECTOR"])
def test_a_number_in_the_schema_needs_a_payload_since_fields_are_strings(kind: str) -> None:
    schema = f"$.id AS id TEXT $.n AS n {kind}"
    (problem,) = problems(STORE_AS="json", INDEX_SCHEMA=schema)
    assert re.match(r"INDEX_SCHEMA: without PAYLOAD_FIELD .*leave \$\.n out", problem)
    Settings.from_env({**JSON, "INDEX_SCHEMA": schema, "PAYLOAD_FIELD": "data"})


def test_documents_have_no_place_for_an_entrys_id() -> None:
    (problem,) = problems(STORE_AS="json", ON_CONFLICT="newer")
    assert problem.startswith("ON_CONFLICT: newer does not go with STORE_AS=json")
    assert Settings.from_env({**JSON, "ON_CONFLICT": "keep"}).streams[0].on_conflict == "keep"


def test_a_payload_field_without_documents_is_refused() -> None:
    (problem,) = problems(PAYLOAD_FIELD="data")
    assert problem.startswith("PAYLOAD_FIELD is set, but STORE_AS is not json")


def test_a_script_cannot_wait_for_replicas() -> None:
    (problem,) = problems(SETTLE_MODE="script", ACK_REPLICAS="1")
    assert problem.startswith("ACK_REPLICAS")


def test_a_ca_file_without_tls_is_refused(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    assert Settings.from_env({**LEAST, "REDIS_TLS_CA_FILE": str(ca_file)}).redis.tls_ca_file == str(ca_file)
    (problem,) = problems(REDIS_TLS_CA_FILE=str(ca_file), REDIS_TLS="false")
    assert problem.startswith("REDIS_TLS_CA_FILE is set, but REDIS_TLS is false")


def test_all_problems_are_told_at_once_each_with_its_variable() -> None:
    bad = {name: values[0] for name, values in BAD.items() if name not in ("STREAMS", "DEAD_LETTER_STREAM")}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**bad, "REDIS_DB": "1", "REDIS_SENTINEL": "s:26379"})
    named = {re.match(r"[A-Z_]+", problem)[0] for problem in caught.value.problems}  # type: ignore[index]
    # With an unreadable REDIS_AUTH nobody can tell whether the Entra variables are wrong.
    missing = {"STREAM_NAME", "STREAM_CONSUMER_GROUP_NAME", "MONITORING_CONSUMER_NAME"}
    assert named >= set(bad) | missing | {"REDIS_DB", "REDIS_SENTINEL"}
    assert len(caught.value.problems) == len(set(caught.value.problems))
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_an_empty_environment_names_every_required_variable() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({})
    required = {name for name, default in DEFAULTS.items() if default is REQUIRED}
    assert set(caught.value.problems) == {f"{name} is missing" for name in required}


# --- secrets ----------------------------------------------------------------------------------------------------------------


def test_the_password_is_in_no_repr() -> None:
    settings = Settings.from_env({**LEAST, "REDIS_PASSWORD": "canary", "REDIS_USERNAME": "someone"})
    assert settings.redis.password == "canary"
    for shown in (repr(settings), str(settings), repr(settings.redis), f"{settings.redis}"):
        assert "canary" not in shown


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) | set(_NOT_SUPPORTED)))
@pytest.mark.parametrize("value", ["canary", "rediss://:canary@host:6380/0", "host:canary", "[canary", "-1 canary"])
def test_no_problem_quotes_a_password_wherever_somebody_put_it(name: str, value: str) -> None:
    environment = {**LEAST, "REDIS_PASSWORD": "canary", "PAGE_SIZE": "bad", name: value}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environment)
    text = str(caught.value)
    assert "canary" not in text.replace("'canary' with group", ""), text


# --- held to the documents --------------------------------------------------------------------------------------------------


def _table() -> Iterator[tuple[str, str]]:
    """The rows of the README's settings table: the variable, and its default as it is written."""
    rows = [[cell.strip() for cell in _cells(line)] for line in (ROOT / "README.md").read_text().splitlines()]
    for cells in rows:
        if len(cells) >= 2 and (match := re.fullmatch(r"`([A-Z][A-Z_]+)`", cells[0])):
            yield match[1], cells[1]


def _cells(line: str) -> list[str]:
    """The cells of a table's row; a `|` within backticks, or escaped, is text."""
    if not line.startswith("|"):
        return []
    return re.findall(r"((?:`[^`]*`|\\\||[^|`])*)\|", line[1:])


def test_the_readme_has_a_row_for_each_variable_with_its_default() -> None:
    rows = list(_table())
    written = {name: text for name, text in rows if name in DEFAULTS}
    assert len({name for name, _ in rows}) == len(rows), "a variable has one row"
    expected = {name: "required" if text is REQUIRED else f"`{text}`" for name, text in DEFAULTS.items()}
    assert {name: re.sub(r"^``$|^(none|–|-)?$", "``", text) for name, text in written.items()} == expected


def test_the_readme_has_no_row_for_a_variable_that_nobody_reads() -> None:
    known = set(DEFAULTS) | set(_NOT_SUPPORTED)
    assert {name for name, _ in _table() if name.startswith(("REDIS_", "STREAM", "MONITOR"))} <= known


def test_the_example_of_local_settings_holds_only_variables_that_are_read_and_works() -> None:
    example = json.loads((ROOT / "local.settings.example.json").read_text())
    assert example["IsEncrypted"] is False
    values: dict[str, str] = example["Values"]
    of_the_platform = {"FUNCTIONS_WORKER_RUNTIME": "python", "AzureWebJobsStorage": "UseDevelopmentStorage=true"}
    assert of_the_platform.items() <= values.items()
    assert set(values) - set(of_the_platform) <= set(DEFAULTS)
    assert {name for name, default in DEFAULTS.items() if default is REQUIRED} <= set(values)
    assert all(isinstance(value, str) for value in values.values()), "the platform takes texts only"
    settings = Settings.from_env(values)
    assert (settings.redis.host, settings.redis.port, settings.redis.tls) == ("127.0.0.1", 6379, False)
    assert settings.streams[0].stream == "tweets_stream"


def test_no_variable_is_read_that_defaults_does_not_list() -> None:
    """Whatever name the code hands to a reader of variables is in DEFAULTS, or refused by name."""
    tree = ast.parse(inspect.getsource(shared.settings))
    named = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("_read", "_text", "get")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and str(node.args[0].value).isupper()
    }
    assert named == set(DEFAULTS)
