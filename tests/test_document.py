"""STORE_AS=json: entries as documents, by script and by gather; the rule in Lua, in Python, and what RedisJSON really does."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from demo.redis import RedisServer, find_server
from monitor import scripts
from monitor.document import DEEPEST, DocumentRule, is_refused_by_json_set
from monitor.janitor import raise_for
from monitor.json_numbers import is_changed
from monitor.outcomes import FAULTS_EXPLAINED
from monitor.scripts import store_script
from shared.errors import TickFailed
from tests.cli import inside, piped
from tests.conftest import Scene, Sweeper, new_scene, raw_client, wire
from tests.test_old_redis import redis_6_2, redis_7_on_path

RULES = scripts._shared("store.lua", "document.lua")
BY_LUA = f"""{RULES}
local fields = {{}}
for i = 2, #ARGV do fields[i - 1] = ARGV[i] end
local outcome = document_writer(ARGV[1])(KEYS[1], '', fields, 'overwrite')
return outcome == 'stored' and '' or outcome.fault
"""
CHANGED = RULES + "return is_changed(ARGV[1]) and 1 or 0"
JSON_KEY = "{document-rule}"


def by_lua(raw: redis.Redis, fields: list[bytes], payload_field: str) -> str:
    """What the script finds wrong, JSON.SET's own word included; nothing if it stored the document."""
    fault: bytes = raw.execute_command("EVAL", BY_LUA, 1, JSON_KEY, payload_field, *fields)
    return fault.decode()


def by_python(fields: list[bytes], payload_field: str) -> tuple[bytes | None, str]:
    """The document and what is wrong with it, as the dry run sees it, which asks nobody."""
    document, fault = DocumentRule(payload_field or None).of(fields)
    if document is not None and is_refused_by_json_set(document):
        return document, "not_json"
    return document, fault or ""


@pytest.fixture(scope="module")
def kept(raw: redis.Redis) -> Iterator[Any]:
    """What JSON.GET shows of a document after its JSON.SET; None if that was refused."""

    def keep(document: bytes) -> bytes | None:
        raw.execute_command("DEL", JSON_KEY)
        try:
            raw.execute_command("JSON.SET", JSON_KEY, "$", document)
        except redis.ResponseError:
            return None
        shown: bytes = raw.execute_command("JSON.GET", JSON_KEY)
        return shown

    yield keep
    raw.execute_command("DEL", JSON_KEY)


# --- numbers --------------------------------------------------------------------------------------------------------------


def doubles() -> st.SearchStrategy[str]:
    return (
        st.integers(0, 2**64 - 1)
        .map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
        .filter(math.isfinite)
        .map(repr)
    )


NUMBERS = st.one_of(
    doubles(),
    st.floats(-180, 180).map(repr),
    st.integers(-(10**26), 10**26).map(str),
    st.integers(2**63 - 9, 2**63 + 9).map(lambda number: str(-number)),
    st.integers(2**64 - 9, 2**64 + 9).map(str),
    st.tuples(st.integers(0, 10**17), st.integers(-340, 320)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.tuples(st.integers(0, 10**12), st.text("0123456789", min_size=1, max_size=30)).map(
        lambda pair: f"-{pair[0]}.{pair[1]}"
    ),
    st.tuples(st.integers(1, 999), st.integers(12, 40)).map(lambda pair: str(pair[0] * 10 ** pair[1])),
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS)
@example("12345678901234567890123")
@example("-0")
@example("0e400")
@example("1e-400")
@example("1e400")
@example("100000000000000000000")
@example("2.7715077941825975e-163")
@example("5e-324")
@example("7.120236347223045e-307")
@example("6.189700196426902e+26")
@example("4e-324")
@example("0.00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001")
@example("1e000000000000000000005")
def test_a_number_counts_as_changed_exactly_if_redisjson_keeps_another(raw: redis.Redis, kept: Any, token: str) -> None:
    shown = kept(b'{"n":%s}' % token.encode())
    really = shown is None or Decimal(shown.decode()[len('{"n":') : -1]) != Decimal(token)
    assert is_changed(token.encode()) == really
    assert bool(raw.execute_command("EVAL", CHANGED, 0, token)) == really


def test_rounding_as_python_does_would_miss_numbers_that_change(kept: Any) -> None:
    """Control: the shortest text of a double stands for it everywhere, but not in RedisJSON's parser."""
    token = "2.7715077941825975e-163"
    assert repr(float(token)) == token
    assert token.encode() not in kept(b'{"n":%s}' % token.encode())


def test_json_set_alone_would_drop_what_stands_behind_an_object(kept: Any) -> None:
    """Control: why a payload is looked at before RedisJSON is asked."""
    assert kept(b'{"a":1} and more') == b'{"a":1}'
    assert DocumentRule("data").of([b"data", b'{"a":1} and more']) == (None, "not_json")


# --- documents ------------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b" ", b"\n", b'"a":', b'{"a":1}', b"12345678901234567890123", b"1.5", b"-",
     b"true", b"NaN",
     b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\x00", b"x"]
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(PIECES, max_size=8).map(b"".join),
    st.lists(PIECES, max_size=4).map(lambda pieces: b'{"a":' + b"".join(pieces) + b"}"),
    st.binary(max_size=12),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=5,
    ).map(lambda value: json.dumps({"v": value}, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
@example(b'{"a":1}x')
@example(b"{}{}")
@example(b'{"a":1}"x"')
@example(b'{"a":1}\\{')
@example(b'{"a":1}\\ ')
@example(b'{"a":1}\\')
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'{"a":"\\ud800"}')
@example(b'{"a":"}"}')
@example(b'{"a":"\\"}","b":12345678901234567890123}')
@example(b'{"a":' * DEEPEST + b"1" + b"}" * DEEPEST)
@example(b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1))
@example(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}")
def test_lua_and_python_say_the_same_of_a_payload_and_what_they_let_through_is_kept(
    raw: redis.Redis, kept: Any, text: bytes
) -> None:
    document, fault = by_python([b"data", text], "data")
    assert by_lua(raw, [b"data", text], "data") == fault
    assert fault in FAULTS_EXPLAINED or not fault
    if document is None:
        return
    shown = kept(document)
    assert (shown is None) == is_refused_by_json_set(document), "the dry run foresees what JSON.SET says"
    if shown is not None:
        assert json.loads(shown, parse_float=Decimal) == json.loads(document, parse_float=Decimal)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.one_of(st.sampled_from([b"1", b"a", b""]), TEXTS), TEXTS), min_size=1, max_size=4))
def test_without_a_payload_the_document_is_the_fields_as_strings(
    raw: redis.Redis, kept: Any, pairs: list[tuple[bytes, bytes]]
) -> None:
    fields = [part for pair in pairs for part in pair]
    document, fault = by_python(fields, "")
    assert by_lua(raw, fields, "") == fault
    if document is not None:
        wanted = {name.decode(): value.decode() for name, value in dict(pairs).items()}
        assert json.loads(raw.execute_command("JSON.GET", JSON_KEY)) == wanted, "by the script"
        assert json.loads(kept(document)) == json.loads(document) == wanted


def test_a_missing_payload_is_a_fault_and_of_two_the_last_counts(raw: redis.Redis, kept: Any) -> None:
    missing, twice = [b"id", b"1"], [b"data", b"[", b"data", b"{}"]
    assert (by_lua(raw, missing, "data"), by_python(missing, "data")) == ("no_payload", (None, "no_payload"))
    assert (by_lua(raw, twice, "data"), by_python(twice, "data")) == ("", (b"{}", ""))


# --- sweeps ---------------------------------------------------------------------------------------------------------------


def document_at(scene: Scene, key_id: str) -> Any:
    return json.loads(scene.raw.execute_command("JSON.GET", scene.prefix + key_id))


def search(scene: Scene, query: str) -> list[bytes]:
    reply = scene.raw.execute_command("FT.SEARCH", scene.index, query, "NOCONTENT", "DIALECT", 2)
    return sorted(row[b"id"].removeprefix(scene.prefix.encode()) for row in reply[b"results"])


async def test_entries_become_documents_that_a_search_finds(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add_tweets(3)
    scene.add("id", "9", "text", 'नमस्ते 🌍 " \\ /', "traceparent", "00-0-0-0", "text", "last\x00\x7f")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_AS="json"))
    assert (report.processed, report.unsearchable, report.index, report.settle_mode) == (4, 0, "ok", mode)
    assert scene.pending() == 0
    assert document_at(scene, "0") == {
        "id": "0", "user": "user0", "text": "hello 0", "location": "India", "hashtags": "a,b",
    }  # fmt: skip
    assert document_at(scene, "9") == {"id": "9", "text": "last\x00\x7f"}
    assert search(scene, "@user:user1") == [b"1"]
    assert search(scene, "@hashtags:{a} @text:hello") == [b"0", b"1", b"2"]


async def test_a_payload_is_stored_as_it_is_with_numbers_that_a_search_finds(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    payload = '{"id": "o1", "amount": 12.50, "lines": [{"sku": "a"}, {"sku": "b"}], "big": 9007199254740993}'
    scene.add("id", "1", "data", payload, "other", "is not stored")
    scene.abandon()
    schema = "$.id AS id TAG $.amount AS amount NUMERIC $.lines[*].sku AS sku TAG"
    report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_AS="json", PAYLOAD_FIELD="data", INDEX_SCHEMA=schema))
    assert (report.processed, report.unsearchable, report.index) == (1, 0, "ok")
    assert document_at(scene, "1") == json.loads(payload)
    assert search(scene, "@amount:[12 13] @sku:{b}") == [b"1"]


FAULTS = {
    "no_payload": ["other", "x"],
    "not_utf8": ["data", b'{"a":"\xff"}'],
    "not_json": ["data", "[1]"],
    "number_changed": ["data", '{"n": 12345678901234567890123}'],
}


@pytest.mark.parametrize("ttl", ["", "60"])
async def test_what_cannot_become_a_document_is_dead_lettered_byte_for_byte(
    scene: Scene, sweep: Sweeper, mode: str, ttl: str
) -> None:
    wanted: dict[str, int] = {}
    for fault, fields in FAULTS.items():
        scene.add("id", fault, *fields)
        wanted[f"dead_lettered: {FAULTS_EXPLAINED[fault]}"] = 1
    for data in ('{"a":1}x', '{"a":', '{"a":NaN}', '{"a":01}', '{"a":"\\ud800"}', "{" * 200 + "}" * 200):
        scene.add("id", "not_json", "data", data)  # some of them only JSON.SET refuses
        wanted[f"dead_lettered: {FAULTS_EXPLAINED['not_json']}"] += 1
    scene.add("id", "sound", "data", "{}")
    scene.abandon()
    settings = scene.settings(SETTLE_MODE=mode, STORE_AS="json", PAYLOAD_FIELD="data", STORE_TTL_SEC=ttl)
    report = await sweep(settings)
    assert {reason: named.count for reason, named in report.reasons.items()} == wanted
    assert (report.processed, report.dead_lettered, scene.pending()) == (1, 10, 0)
    assert [key.removeprefix(scene.prefix.encode()) for key in scene.hashes()] == [b"sound"]
    held = {letter[1][15]: letter[1][17] for letter in scene.dead_letters() if len(letter[1]) > 17}  # type: ignore[index]
    assert held[b"not_utf8"] == FAULTS["not_utf8"][1]


async def test_fields_that_are_not_utf8_are_a_fault_without_a_payload(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("id", "1", "text", b"\xff")
    scene.add("id", "2", b"\xff", "x")
    scene.add("id", b"\xff")
    scene.add("id", "3", "text", "ä")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_AS="json"))
    assert (report.processed, report.dead_lettered) == (1, 3)
    assert list(report.reasons) == [f"dead_lettered: {FAULTS_EXPLAINED['not_utf8']}"]


@pytest.mark.parametrize("ttl", ["", "60"])
@pytest.mark.parametrize("rule", ["overwrite", "keep"])
async def test_a_key_of_another_type_is_the_entrys_fault(
    scene: Scene, sweep: Sweeper, mode: str, rule: str, ttl: str
) -> None:
    """RedisJSON says so without the code WRONGTYPE."""
    scene.raw.execute_command("HSET", scene.prefix + "1", "a", "hash")
    scene.raw.execute_command("SET", scene.prefix + "2", "a string")
    scene.add("id", "1")
    scene.add("id", "2")
    scene.abandon()
    settings = scene.settings(SETTLE_MODE=mode, STORE_AS="json", ON_CONFLICT=rule, STORE_TTL_SEC=ttl)
    report = await sweep(settings)
    assert (report.dead_lettered, scene.pending()) == (2, 0)
    assert list(report.reasons) == [f"dead_lettered: {FAULTS_EXPLAINED['wrong_type']}"]
    assert scene.hash("1") == {b"a": b"hash"}
    assert scene.raw.execute_command("TTL", scene.prefix + "1") == -1


async def test_a_document_in_a_hashs_place_is_a_hashs_fault(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.raw.execute_command("JSON.SET", scene.prefix + "1", "$", "{}")
    scene.add("id", "1")
    scene.abandon()
    report = await sweep(scene.settings(SETTLE_MODE=mode))
    assert list(report.reasons) == [f"dead_lettered: {FAULTS_EXPLAINED['wrong_type']}"]


@pytest.mark.parametrize("ttl", ["", "60", "0"])
async def test_keep_and_overwrite_with_each_ttl(scene: Scene, sweep: Sweeper, mode: str, ttl: str) -> None:
    for rule, text in (("keep", "old"), ("overwrite", "new")):
        scene.raw.execute_command("JSON.SET", scene.prefix + "1", "$", '{"id":"1","text":"old"}')
        scene.raw.execute_command("EXPIRE", scene.prefix + "1", 500)
        scene.add("id", "1", "text", "new")
        scene.abandon()
        report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_AS="json", ON_CONFLICT=rule, STORE_TTL_SEC=ttl))
        assert (report.kept, report.processed) == ((1, 0) if rule == "keep" else (0, 1))
        assert document_at(scene, "1")["text"] == text
        left = scene.raw.execute_command("TTL", scene.prefix + "1")
        low, high = (400, 500) if rule == "keep" or ttl == "" else (-1, -1) if ttl == "0" else (1, 60)
        assert low <= left <= high


async def test_a_document_that_the_index_refuses_is_named(scene: Scene, sweep: Sweeper, mode: str) -> None:
    scene.add("id", "good", "data", '{"id": "good", "n": 1}')
    bad = scene.add("id", "bad", "data", '{"id": "bad", "n": "no number"}')
    scene.abandon()
    schema = "$.id AS id TEXT $.n AS n NUMERIC"
    report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_AS="json", PAYLOAD_FIELD="data", INDEX_SCHEMA=schema))
    assert (report.processed, report.unsearchable) == (2, 1)
    assert bad.decode() in str(report)


async def test_an_index_over_hashes_is_said_to_be_the_wrong_one(scene: Scene, sweep: Sweeper) -> None:
    await sweep(scene.settings())
    report = await sweep(scene.settings(STORE_AS="json"))
    assert report.index == f"{scene.index} is an index ON HASH, not JSON as STORE_AS says"


async def test_a_batch_of_documents_takes_no_round_trip_more_than_one_of_hashes(
    scene: Scene, sweep: Sweeper, mode: str
) -> None:
    trips = {}
    for store_as in ("hash", "json", "hash", "json"):
        scene.add_tweets(4)
        scene.abandon()
        for key in scene.hashes():
            scene.raw.execute_command("DEL", key)
        janitor = sweep.janitor(scene.settings(SETTLE_MODE=mode, STORE_AS=store_as, INDEX_SCHEMA="off"))
        await janitor.tick()  # asks once what this server can do
        scene.add_tweets(4, 10)
        scene.abandon()
        seen = wire(janitor)
        (report,) = await janitor.tick()
        assert report.processed == 4
        trips[store_as] = seen.round_trips
    assert trips["hash"] == trips["json"]


# --- servers --------------------------------------------------------------------------------------------------------------


async def test_without_redisjson_there_is_one_clear_error_and_nothing_happens(
    own_scene: Scene, sweep: Sweeper, mode: str
) -> None:
    own_scene.add_tweets(3)
    own_scene.abandon()
    settings = own_scene.settings(SETTLE_MODE=mode, STORE_AS="json")
    janitor = sweep.janitor(settings)
    (report,) = await janitor.tick()
    assert report.error is not None
    assert "this Redis has no JSON.SET" in report.error
    assert (report.candidates, own_scene.pending(), own_scene.dead_letters()) == (0, 3, [])
    assert all(row[2] >= 60_000 for row in own_scene.pending_rows()), "nothing was claimed"  # type: ignore[operator]
    environment = {**own_scene.environment, "SETTLE_MODE": mode, "STORE_AS": "json"}
    told = await asyncio.to_thread(piped, environment, "doctor", "--json")
    (finding,) = [record for record in told.records if record.get("check") == "JSON"]
    assert (finding["ok"], "STORE_AS=hash" in finding["detail"]) == (False, True)


async def test_a_full_server_loses_nothing(sweep: Sweeper, mode: str) -> None:
    with RedisServer() as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, STORE_AS="json", INDEX_SCHEMA="off", SETTLE_MODE=mode)
        scene.add_tweets(5)
        scene.abandon()
        client.execute_command("CONFIG", "SET", "maxmemory", 1)
        (report,) = await sweep.janitor(scene.settings()).tick()
        assert report.error is not None
        assert "out of memory" in report.error
        assert (scene.pending(), scene.hashes()) == (5, [])
        client.execute_command("CONFIG", "SET", "maxmemory", 0)
        scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
        assert (await sweep(scene.settings())).processed == 5
        client.close()


async def test_documents_on_a_primary_wait_for_replicas_kept_ones_too(sweep: Sweeper) -> None:
    """What was kept wrote nothing; its key is touched, whatever TTL it has, and stays as it is."""
    with RedisServer() as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, STORE_AS="json", INDEX_SCHEMA="off", ACK_REPLICAS="1")
        scene.environment |= {"ON_CONFLICT": "keep", "SWEEP_BUDGET_SEC": "5"}
        for number, ttl_s in ((1, None), (2, 500)):
            client.execute_command("JSON.SET", f"{scene.prefix}{number}", "$", '{"a":0.1}')
            if ttl_s:
                client.execute_command("EXPIRE", f"{scene.prefix}{number}", ttl_s)
            scene.add("id", number)
        scene.add("id", "new")
        scene.abandon()
        (report,) = await sweep.janitor(scene.settings()).tick()
        assert (report.failed, scene.pending()) == (3, 3), "there is no replica"
        with RedisServer(arguments=("--replicaof", "127.0.0.1", str(server.port))) as replica:
            copy = raw_client(replica)
            while b"master_link_status:up" not in copy.execute_command("INFO", "replication"):
                pass
            scene.age([row[0] for row in scene.pending_rows()])  # type: ignore[misc]
            (report,) = await sweep.janitor(scene.settings()).tick()
            copy.close()
        assert (report.kept, scene.pending()) == (3, 0), "the third was written the first time"
        assert client.execute_command("TTL", f"{scene.prefix}1") == -1
        assert 400 < client.execute_command("TTL", f"{scene.prefix}2") <= 500
        assert client.execute_command("JSON.GET", f"{scene.prefix}2") == b'{"a":0.1}'
        client.close()


# --- redrive, dry run -----------------------------------------------------------------------------------------------------


def mixed(scene: Scene) -> None:
    for fault, fields in FAULTS.items():
        scene.add("id", fault, *fields)
    scene.add("id", "trailing", "data", '{"a":1,}')
    scene.add("id", "surrogate", "data", '{"a":"\\udc00"}')
    scene.add("id", "deep", "data", '{"a":' * 200 + "1" + "}" * 200)
    scene.add("id", "sound", "data", '{"a":1}', "traceparent", b"\xff")
    scene.add("id", "typed", "data", "{}")
    scene.add("id", "kept", "data", "{}")
    scene.abandon()
    scene.raw.execute_command("SADD", f"{scene.prefix}typed", "x")
    scene.raw.execute_command("JSON.SET", f"{scene.prefix}kept", "$", "{}")


@pytest.mark.parametrize("payload", ["", "data"])
@pytest.mark.parametrize("conflict", ["overwrite", "keep"])
def test_a_dry_run_foresees_what_becomes_of_documents(scene: Scene, conflict: str, payload: str) -> None:
    mixed(scene)
    environment = {**scene.environment, "STORE_AS": "json", "PAYLOAD_FIELD": payload, "ON_CONFLICT": conflict}
    expected = inside(environment, "sweep", "--dry-run", "--json").record
    done = inside(environment, "sweep", "--json").record
    differing = {name for name in done if expected[name] != done[name]}
    assert differing <= {"dry_run", "duration_s", "settle_mode", "oldest_pending_age_s", "index"}, (expected, done)


def test_redrive_stores_documents_and_leaves_what_still_cannot_be_one(scene: Scene) -> None:
    mixed(scene)
    environment = {**scene.environment, "STORE_AS": "json", "PAYLOAD_FIELD": "data"}
    inside(environment, "sweep")
    dead = len(scene.dead_letters())
    scene.raw.execute_command("DEL", f"{scene.prefix}typed")
    record = inside(environment, "dead-letters", "redrive", "--json").record
    assert (record["stored"], record["stays"]) == (1, dead - 1)
    assert document_at(scene, "typed") == {}
    assert set(record["reasons"]) == {FAULTS_EXPLAINED[fault] for fault in FAULTS}


def test_redrive_without_redisjson_says_so_and_leaves_the_letters(own_scene: Scene) -> None:
    own_scene.add("no", "id")
    own_scene.abandon()
    inside(own_scene.environment, "sweep")
    ran = inside({**own_scene.environment, "STORE_AS": "json"}, "dead-letters", "redrive")
    assert "this Redis has no JSON.SET" in ran.out + ran.err
    assert len(own_scene.dead_letters()) == 1


def test_the_scripts_text_compiles_where_scripts_see_no_json(own_scene: Scene) -> None:
    """store.lua alone stays what a consumer can run anywhere."""
    reply = own_scene.raw.execute_command(
        "EVAL", store_script().text, 1, own_scene.prefix + "1", "overwrite", "5-1", "id", "1"
    )
    assert reply == b"stored"


@pytest.mark.parametrize("ttl", ["", "60"])
async def test_on_redis_7_documents_fare_the_same(sweep: Sweeper, mode: str, ttl: str) -> None:
    module = find_server().json_module
    with RedisServer(search=False, executable=redis_7_on_path(), arguments=("--loadmodule", str(module))) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, STORE_AS="json", PAYLOAD_FIELD="data", INDEX_SCHEMA="off")
        mixed(scene)
        report = await sweep(scene.settings(SETTLE_MODE=mode, STORE_TTL_SEC=ttl, ON_CONFLICT="keep"))
        assert (report.settle_mode, report.error, scene.pending()) == (mode, None, 0)
        assert (report.processed, report.kept, report.dead_lettered) == (1, 1, len(FAULTS) + 4)
        counts = {reason.removeprefix("dead_lettered: "): named.count for reason, named in report.reasons.items()}
        wanted = {FAULTS_EXPLAINED[fault]: 1 for fault in FAULTS}
        wanted[FAULTS_EXPLAINED["not_json"]] += 3  # what only JSON.SET refuses
        assert counts == wanted | {FAULTS_EXPLAINED["wrong_type"]: 1}
        assert document_at(scene, "sound") == {"a": 1}
        assert (client.execute_command("TTL", scene.prefix + "sound") > 0) == bool(ttl)
        client.close()


async def test_on_redis_6_documents_are_refused_for_want_of_the_module(sweep: Sweeper) -> None:
    with RedisServer(search=False, executable=redis_6_2()) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment, STORE_AS="json", INDEX_SCHEMA="off")
        scene.add("id", "1")
        scene.abandon()
        reports = await sweep.janitor(scene.settings()).tick()
        with pytest.raises(TickFailed, match=r"JSON\.SET"):
            raise_for(reports)
        assert scene.pending() == 1
        client.close()
