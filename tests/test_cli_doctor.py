from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from demo.redis import RedisServer
from monitor.cli.reach import is_loopback
from monitor.cli.rights import missing, needed
from shared.redis_client import ServerLink
from shared.settings import RedisSettings
from tests.cli import Ran, inside
from tests.conftest import Scene
from tests.fronts import HangUp, Passage

Problems = dict[str, list[str]]
Grant = Callable[..., dict[str, str]]


def doctor(scene: Scene, **changes: str) -> tuple[int, Problems]:
    """The exit code, and by check what is wrong."""
    ran = inside({**scene.environment, **changes}, "doctor", "--json")
    return ran.code, problems_of(ran)


def problems_of(ran: Ran) -> Problems:
    assert not ran.err, ran
    problems: Problems = {}
    for record in ran.records:
        if not record["ok"]:
            problems.setdefault(record["check"], []).append(record["detail"])
    return problems


@pytest.fixture
def healthy(scene: Scene) -> Scene:
    scene.raw.execute_command(
        "FT.CREATE", scene.index, "ON", "HASH", "PREFIX", 1, scene.prefix, "SCHEMA",
        "id", "TEXT", "user", "TEXT", "text", "TEXT", "location", "TEXT", "hashtags", "TAG", "SEPARATOR", ",",
    )  # fmt: skip
    return scene


@pytest.fixture
def grant(raw: redis.Redis) -> Iterator[Grant]:
    """Makes a user with these rights; the settings to log in as that user."""
    users = []

    def make(*rights: str) -> dict[str, str]:
        user = f"user{len(users)}-{id(users)}"
        users.append(user)
        raw.execute_command("ACL", "SETUSER", user, "reset", "on", ">secret", "-@all", *rights)
        return {"REDIS_USERNAME": user, "REDIS_PASSWORD": "secret"}

    yield make
    for user in users:
        raw.execute_command("ACL", "DELUSER", user)


def all_rights(scene: Scene, by_script: bool = True, **changes: str) -> list[str]:
    rights = needed(scene.settings(**changes).streams[0], by_script, False, (scene.index,))
    connecting = ("+hello", "+client|setinfo", "+client|setname", "+ping")
    # EXISTS of a few keys: how a script finds out whether it reaches them (monitor/probe.lua)
    return [f"~{scene.stream}*", *connecting, "+exists", *(f"+{right.name}" for right in rights)]


@pytest.mark.parametrize("conflict", ["overwrite", "newer", "keep"])
def test_all_is_right_on_a_plain_loopback_server(healthy: Scene, mode: str, conflict: str) -> None:
    healthy.add_tweets(1)
    healthy.abandon()
    before = (healthy.keys(), healthy.pending_rows()[0][:2])
    assert doctor(healthy, SETTLE_MODE=mode, ON_CONFLICT=conflict) == (0, {})
    assert (healthy.keys(), healthy.pending_rows()[0][:2]) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"STORE_AS": "json", "ON_CONFLICT": "keep", "ACK_REPLICAS": "1"},
        {"STORE_AS": "json", "STORE_TTL_SEC": "60"},
        {"STORE_TTL_SEC": "0", "ID_FIELDS": "@entry"},
    ],
    ids=str,
)
def test_documents_and_ttls_have_rights_of_their_own(scene: Scene, grant: Grant, changes: dict[str, str]) -> None:
    scene.raw.execute_command("JSON.SET", f"{scene.prefix}doctor", "$", "{}")
    scene.raw.execute_command("EXPIRE", f"{scene.prefix}doctor", 500)
    changes = {**changes, "INDEX_SCHEMA": "off"}
    by_script = "ACK_REPLICAS" not in changes
    rights = all_rights(scene, by_script, **changes)
    own = [right for right in rights if right in ("+json.set", "+expire", "+persist", "+pttl", "+pexpire")]
    assert own
    code, problems = doctor(scene, **changes, **grant(*rights))
    no_replica = [] if by_script else ["replicas"]  # this server has none, which doctor says
    assert (code, list(problems)) == (len(no_replica), no_replica)
    for right in own:
        _, problems = doctor(scene, **changes, **grant(*(one for one in rights if one != right)))
        assert any(right in text for text in problems["right"]), (right, problems)
    assert scene.raw.execute_command("TTL", f"{scene.prefix}doctor") > 0, "looking changes nothing"
    assert scene.raw.execute_command("JSON.GET", f"{scene.prefix}doctor") == b"{}"


def test_wrong_settings_are_told_one_by_one(scene: Scene) -> None:
    code, problems = doctor(scene, MIN_IDLE_TIME_SEC="soon", REDIS_TLS="perhaps")
    assert code == 2
    assert [text.split(":")[0] for text in sorted(problems["settings"])] == ["MIN_IDLE_TIME_SEC", "REDIS_TLS"]


def test_a_wrong_password_is_named(healthy: Scene, grant: Grant) -> None:
    login = grant("+@all", "~*")
    code, problems = doctor(healthy, **{**login, "REDIS_PASSWORD": "canary"})
    assert code == 1
    assert list(problems) == ["login"]
    assert "REDIS_PASSWORD" in problems["login"][0]
    assert "canary" not in json.dumps(problems)


def test_a_missing_password_is_named(own_server: RedisServer, own_scene: Scene) -> None:
    own_scene.raw.execute_command("CONFIG", "SET", "requirepass", "secret")
    code, problems = doctor(own_scene)
    assert (code, list(problems)) == (1, ["login"])
    assert "REDIS_PASSWORD" in problems["login"][0]


def test_a_missing_group_is_named_with_the_command_that_makes_it(healthy: Scene) -> None:
    code, problems = doctor(healthy, STREAM_CONSUMER_GROUP_NAME="nobody")
    assert (code, list(problems)) == (1, ["group"])
    assert f"XGROUP CREATE {healthy.stream} nobody 0 MKSTREAM" in problems["group"][0]


def test_a_missing_index_is_named(scene: Scene) -> None:
    code, problems = doctor(scene)
    assert (code, list(problems)) == (1, ["index"])
    assert f"{scene.index} is missing" in problems["index"][0]


def test_an_index_over_another_prefix_is_named(healthy: Scene) -> None:
    code, problems = doctor(healthy, HASH_PREFIX=f"{healthy.stream}:other:")
    assert (code, list(problems)) == (1, ["index"])
    assert "covers" in problems["index"][0]


def test_a_server_without_search_is_named(own_scene: Scene) -> None:
    code, problems = doctor(own_scene, INDEX_SCHEMA="id TEXT")
    assert (code, list(problems)) == (1, ["index"])
    assert "INDEX_SCHEMA=off" in problems["index"][0]
    assert doctor(own_scene) == (0, {})


def test_a_stream_that_is_another_type_is_named(healthy: Scene) -> None:
    healthy.raw.execute_command("SET", f"{healthy.stream}:text", "x")
    _, problems = doctor(healthy, STREAM_NAME=f"{healthy.stream}:text")
    assert "another type" in problems["group"][0]
    _, problems = doctor(healthy, DEAD_LETTER_STREAM=f"{healthy.stream}:text")
    assert "another type" in problems["dead letters"][0]


# --- rights ---------------------------------------------------------------------------------------------------------------


def test_the_least_rights_are_enough(healthy: Scene, grant: Grant) -> None:
    assert doctor(healthy, **grant(*all_rights(healthy))) == (0, {})


@pytest.mark.parametrize("may_ask", [True, False], ids=["dryrun", "harmless forms"])
async def test_each_missing_right_is_found(healthy: Scene, server: RedisServer, grant: Grant, may_ask: bool) -> None:
    """One user for each right that is taken away; the answer is that one right and no other."""
    changes = {"ON_CONFLICT": "newer", "REAP_CONSUMERS_AFTER_SEC": "60", "ACK_REPLICAS": "1"}
    settings = healthy.settings(**changes).streams[0]
    rights = needed(settings, True, False, (healthy.index,))
    asking = ["+acl|whoami", "+acl|dryrun"] if may_ask else []
    keys_before = healthy.keys()
    for name in sorted({right.name for right in rights}):
        others = [right for right in all_rights(healthy, **changes) if right != f"+{name}"]
        found = await _missing(server, grant(*others, *asking), rights)
        assert found == {(name, False)}
    assert healthy.keys() == keys_before


@pytest.mark.parametrize("may_ask", [True, False], ids=["dryrun", "harmless forms"])
async def test_a_missing_key_is_found(healthy: Scene, server: RedisServer, grant: Grant, may_ask: bool) -> None:
    rights = needed(healthy.settings().streams[0], True, False, (healthy.index,))
    own = [right for right in all_rights(healthy) if not right.startswith("~")]
    keys = (f"~{healthy.stream}", f"~{healthy.stream}:dead*", f"~{healthy.index}")
    found = await _missing(server, grant(*own, *keys, *(["+acl|whoami", "+acl|dryrun"] if may_ask else [])), rights)
    assert found == {("hset", True)}


async def _missing(server: RedisServer, login: dict[str, str], rights: list[Any]) -> set[tuple[str, bool]]:
    host, _, port = server.environment["REDIS_HOST"].partition(":")
    redis_settings = RedisSettings(host, int(port), login["REDIS_USERNAME"], login["REDIS_PASSWORD"], False, None)
    link = ServerLink(redis_settings, 2, 5.0)
    try:
        return {(one.right.name, one.is_the_key) for one in await missing(link, rights)}
    finally:
        await link.close()


def test_a_missing_right_is_named_with_the_command_that_gives_it(healthy: Scene, grant: Grant) -> None:
    login = grant(*(right for right in all_rights(healthy) if right != "+xack"))
    code, problems = doctor(healthy, **login)
    assert (code, list(problems)) == (1, ["right"])
    assert f"ACL SETUSER {login['REDIS_USERNAME']} +xack" in problems["right"][0]


def test_without_the_rights_for_a_script_gather_is_told(healthy: Scene, grant: Grant) -> None:
    login = grant(*(right for right in all_rights(healthy, by_script=False)))
    assert doctor(healthy, **login) == (0, {})
    code, problems = doctor(healthy, SETTLE_MODE="script", **login)
    assert code == 1
    assert "SETTLE_MODE=auto" in problems["script mode"][0]


# --- out of reach, TLS ----------------------------------------------------------------------------------------------------


def test_the_rate_limit_and_whom_it_is_for_is_told(healthy: Scene) -> None:
    ran = inside({**healthy.environment, "RECOVERY_RATE_LIMIT": "50"}, "doctor", "--json")
    (told,) = [record["detail"] for record in ran.records if record["check"] == "rate limit"]
    assert "50 entries/s" in told
    assert f"{healthy.stream} / {healthy.group}" in told
    rights = [record["right"] for record in ran.records if "RECOVERY_RATE_LIMIT" in record["detail"]]
    assert rights == ["hgetall", "hincrby", "hdel", "expire"]
    assert ran.code == 0


@pytest.mark.parametrize("may_ask", [True, False], ids=["by ACL DRYRUN", "by a script"])
@pytest.mark.parametrize(
    ("rights", "may"), [(("+publish", "&news"), True), (("+publish",), False), (("&news",), False)]
)
def test_a_channel_that_this_user_may_not_publish_to_is_told(
    healthy: Scene, grant: Grant, may_ask: bool, rights: tuple[str, ...], may: bool
) -> None:
    asking = ("+acl|whoami", "+acl|dryrun") if may_ask else ()
    login = grant(*all_rights(healthy), "resetchannels", *rights, *asking)
    code, problems = doctor(healthy, RECOVERED_CHANNEL="news", **login)
    assert (code == 0) is may
    assert list(problems) == ([] if may else ["channel"])
    assert may or problems["channel"][0].endswith(f"ACL SETUSER {login['REDIS_USERNAME']} +publish &news")


def test_where_only_sending_would_tell_doctor_says_so_and_sends_nothing(healthy: Scene, grant: Grant) -> None:
    listener = redis.Redis(port=healthy.raw.connection_pool.connection_kwargs["port"]).pubsub()
    listener.subscribe("news")
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    rights = [right for right in all_rights(healthy, by_script=False) if right not in ("+evalsha", "+script|load")]
    login = grant(*rights)
    ran = inside({**healthy.environment, "RECOVERED_CHANNEL": "news", **login}, "doctor", "--json")
    (told,) = [record["detail"] for record in ran.records if record["check"] == "channel"]
    healthy.raw.execute_command("PUBLISH", "news", "end")
    assert "the first sweep's log tells" in told
    assert listener.get_message(timeout=10)["data"] == b"end"
    listener.close()


def test_nothing_listening_is_named(scene: Scene) -> None:
    code, problems = doctor(scene, REDIS_HOST="127.0.0.1:1")
    assert (code, list(problems)) == (3, ["connection"])
    assert "REDIS_HOST" in problems["connection"][0]


async def test_one_that_hangs_up_is_named(scene: Scene) -> None:
    async with HangUp() as front:
        code, problems = await asyncio.to_thread(doctor, scene, **front.environment)
    assert (code, list(problems)) == (3, ["connection"])


async def test_tls_off_before_a_server_that_speaks_it_is_named(
    healthy: Scene, server: RedisServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    async with Passage(server.port, context) as front:
        code, problems = await asyncio.to_thread(
            doctor, healthy, REDIS_HOST=f"127.0.0.1:{front.port}", REDIS_TLS="false"
        )
        assert (code, list(problems)) == (3, ["connection", "TLS"])
        assert "set REDIS_TLS=true" in problems["TLS"][0]
        code, problems = await asyncio.to_thread(doctor, healthy, **front.environment)
        assert (code, list(problems)) == (1, ["TLS"])
        assert "REDIS_TLS_CA_FILE" in problems["TLS"][0]
        right = {**front.environment, "REDIS_TLS_CA_FILE": str(ca_file)}
        assert await asyncio.to_thread(doctor, healthy, **right) == (0, {})


def test_tls_on_before_a_server_that_does_not_speak_it_is_named(healthy: Scene) -> None:
    code, problems = doctor(healthy, REDIS_TLS="true")
    assert (code, list(problems)) == (3, ["connection", "TLS"])
    assert "REDIS_TLS=false" in problems["TLS"][0]


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("LOCALHOST.", True),
        ("10.0.0.4", False), ("redis", False), ("localhost.example.org", False), ("my.redis.cache.windows.net", False),
    ],
)  # fmt: skip
def test_only_this_machine_itself_may_go_without_tls(host: str, is_so: bool) -> None:
    assert is_loopback(host) is is_so


def test_no_tls_to_another_machine_is_named(healthy: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.cli.doctor.is_loopback", lambda host: False)
    code, problems = doctor(healthy)
    assert (code, list(problems)) == (1, ["TLS"])
    assert "in the clear" in problems["TLS"][0]


def test_replicas_that_are_asked_for_and_not_there_are_a_problem(scene: Scene) -> None:
    ran = inside({**scene.environment, "ACK_REPLICAS": "2"}, "doctor")
    assert ran.code == 1
    assert "ACK_REPLICAS is 2, but 0 in touch: nothing is acknowledged until there are as many" in ran.out


def test_id_fields_that_no_pending_entry_has_are_a_problem_that_names_what_there_is(scene: Scene) -> None:
    for number in range(120):
        scene.add("order_id", number, "amount", 5)
    scene.deliver()
    _, problems = doctor(scene)
    (text,) = problems["ids"]
    assert text.startswith("0 of 100 pending entries have `id`; fields seen: ")
    assert {"order_id", "amount"} <= set(text.replace(":", ",").replace(" ", "").split(","))
    _, problems = doctor(scene, ID_FIELDS="order_id")
    assert "ids" not in problems


def test_a_sample_of_heavy_entries_ends_at_two_megabytes(scene: Scene) -> None:
    for number in range(20):
        scene.add("order_id", number, "text", b"x" * 500_000)
    scene.deliver()
    _, problems = doctor(scene)
    looked_at = int(problems["ids"][0].split()[2])
    assert 4 <= looked_at < 20


@pytest.mark.parametrize(
    ("policy", "changes", "is_a_problem"),
    [
        ("noeviction", {}, False), ("allkeys-lru", {}, True), ("volatile-ttl", {}, False),
        ("volatile-ttl", {"STORE_TTL_SEC": "60"}, True),
    ],
)  # fmt: skip
def test_a_server_that_may_evict_what_is_stored_is_a_problem(
    own_server: RedisServer, own_scene: Scene, policy: str, changes: dict[str, str], is_a_problem: bool
) -> None:
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory-policy", policy)
    _, problems = doctor(own_scene, **changes)
    assert ("memory" in problems) is is_a_problem
    if is_a_problem:
        assert f"maxmemory-policy is {policy}" in problems["memory"][0]
