from __future__ import annotations

import re
import ssl
import time

import pytest
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from monitor.scripts import settle_script
from shared.errors import JanitorError, RedisRefused, RedisUnavailable
from shared.retry import FAULTS, Deadline, Fault, code_of, fault_of, is_entrys_own, retry, to_user_error
from tests.conftest import Scene, raw_client
from tests.patience import in_time

Connection, Timeout, Response = redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.ResponseError


def replied(kind: type[redis_errors.RedisError], code: str, text: str) -> redis_errors.RedisError:
    """An error as redis-py makes it of a reply that begins with a code that it knows."""
    error = kind(text)
    error.status_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Connection("Error 111 connecting"), "CONNECTION"),
        (Timeout("no reply in time"), "TIMEOUT"),
        (replied(redis_errors.BusyLoadingError, "LOADING", "Redis is loading the dataset"), "LOADING"),
        (Response("OOM command not allowed when used memory > 'maxmemory'."), "OOM"),
        (Response("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (Response("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        (Response("WRONGTYPE Operation against a key holding the wrong kind of value"), "WRONGTYPE"),
        (Response("ERR syntax error"), "ERR"),
        (Response("value of the entry: CANARY"), "ERR"),
        (Response("wrong password"), "ERR"),
        (Response(""), "ERR"),
        (Response("unknown command 'HSET', with args beginning with:"), "NOCOMMAND"),
        (Response("Existing key has wrong Redis type"), "WRONGTYPE"),
    ],
)
def test_an_error_is_known_by_its_code(error: Exception, code: str) -> None:
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("break_it", "command", "code"),
    [
        (("CONFIG", "SET", "maxmemory", 1), ("SET", "k", "v"), "OOM"),
        (("REPLICAOF", "127.0.0.1", 1), ("SET", "k", "v"), "READONLY"),
        (("CONFIG", "SET", "min-replicas-to-write", 1), ("SET", "k", "v"), "NOREPLICAS"),
        (("SET", "k", "v"), ("HSET", "k", "f", "v"), "WRONGTYPE"),
        (("PING",), ("XPENDING", "no", "group"), "NOGROUP"),
        (("PING",), ("EVALSHA", "0" * 40, 0), "NOSCRIPT"),
        (("PING",), ("HSET", "k"), "ERR"),
        (("PING",), ("FT.INFO", "i"), "NOCOMMAND"),
        (("ACL", "SETUSER", "default", "-get"), ("GET", "k"), "NOPERM"),
    ],
)
def test_the_servers_own_errors_are_known_by_their_codes(
    own_scene: Scene, break_it: tuple[str, ...], command: tuple[str, ...], code: str
) -> None:
    own_scene.raw.execute_command(*break_it)
    with pytest.raises(redis_errors.RedisError) as caught:
        own_scene.raw.execute_command(*command)
    assert code_of(caught.value) == code


@pytest.mark.parametrize(("password", "code"), [("wrong", "WRONGPASS"), (None, "NOAUTH")])
def test_a_refused_login_is_known_by_its_code(own_scene: Scene, password: str | None, code: str) -> None:
    from demo.redis import RedisServer

    with RedisServer(search=False, arguments=("--requirepass", "right")) as server:
        client = raw_client(server, password=password, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis_errors.RedisError) as caught:
            client.execute_command("GET", "k")
        client.close()
    assert code_of(caught.value) in (code, "NOAUTH")
    assert fault_of(caught.value) is Fault.GIVE_UP


def test_a_refused_certificate_is_not_tried_again() -> None:
    error = Connection("connecting")
    error.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    assert (code_of(error), fault_of(error)) == ("TLS", Fault.GIVE_UP)


def test_the_table_says_what_each_error_asks_for() -> None:
    by_fault = {fault: {code for code, found in FAULTS.items() if found is fault} for fault in Fault}
    assert {"CONNECTION", "TIMEOUT", "LOADING", "BUSY", "NOSCRIPT"} <= by_fault[Fault.AGAIN]
    assert by_fault[Fault.RECONNECT] == {"READONLY"}
    assert {"OOM", "MISCONF", "NOREPLICAS", "NOPERM", "NOAUTH", "NOGROUP", "CROSSSLOT"} <= by_fault[Fault.GIVE_UP]
    assert by_fault[Fault.ENTRY] == {"WRONGTYPE"}


@pytest.mark.parametrize("code", [code for code, fault in FAULTS.items() if fault is not Fault.ENTRY])
def test_nothing_that_the_server_brings_about_counts_against_an_entry(code: str) -> None:
    assert not is_entrys_own(code)


@pytest.mark.parametrize("code", ["WRONGTYPE", "ERR", "SOMETHINGNEW"])
def test_what_the_table_does_not_name_is_the_entrys_own_where_an_entry_was_written(code: str) -> None:
    assert is_entrys_own(code)
    assert code == "WRONGTYPE" or fault_of(Response(f"{code} x")) is Fault.GIVE_UP


# --- again ------------------------------------------------------------------------------------------------------------------


READONLY = replied(redis_errors.ReadOnlyError, "READONLY", "You can't write against a read only replica.")


class Attempts:
    """Fails with each of ``errors`` in turn, then works."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.made = self.reconnected = 0

    async def __call__(self) -> str:
        self.made += 1
        if self._errors:
            raise self._errors.pop(0)
        return "done"

    async def reconnect(self) -> None:
        self.reconnected += 1


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.retry.FIRST_WAIT_S", 0.001)


@pytest.mark.parametrize(
    ("errors", "made", "reconnected"),
    [
        ((), 1, 0),
        ((Connection("x"),), 2, 0),
        ((Timeout("x"), Connection("x"), replied(redis_errors.BusyLoadingError, "LOADING", "x")), 4, 0),
        ((READONLY,), 2, 1),
        ((Connection("x"), READONLY, READONLY), 4, 2),
    ],
)
async def test_what_may_work_in_a_moment_is_tried_again(
    errors: tuple[Exception, ...], made: int, reconnected: int
) -> None:
    attempts = Attempts(*errors)
    assert await retry(attempts, Deadline.after(5), attempts.reconnect) == "done"
    assert (attempts.made, attempts.reconnected) == (made, reconnected)


@pytest.mark.parametrize(
    "error",
    [
        Response("OOM x"), Response("MISCONF x"), replied(redis_errors.NoPermissionError, "NOPERM", "x"), Response("WRONGTYPE x"),
        Response("ERR x"), RedisRefused("x"), KeyError("x"),
    ],
    ids=repr,
)  # fmt: skip
async def test_what_repeating_cannot_help_is_raised_at_once(error: Exception) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)) as caught:
        await retry(attempts, Deadline.after(5), attempts.reconnect)
    assert caught.value is error
    assert attempts.made == 1


async def test_attempts_end_at_the_deadline_with_the_last_error() -> None:
    attempts = Attempts(*(Connection(str(number)) for number in range(1000)))
    began_s = time.monotonic()
    with pytest.raises(Connection):
        await retry(attempts, Deadline.after(0.2), attempts.reconnect)
    assert time.monotonic() - began_s < in_time(0.5)
    assert attempts.made > 1


async def test_behind_the_deadline_there_is_one_attempt_and_no_more() -> None:
    attempts = Attempts(Connection("x"))
    with pytest.raises(Connection):
        await retry(attempts, Deadline.after(-1), attempts.reconnect)
    assert attempts.made == 1


# --- in words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (Connection("canary"), RedisUnavailable, "REDIS_HOST"),
        (Timeout("canary"), RedisUnavailable, "in time"),
        (Response("OOM canary"), RedisRefused, "out of memory"),
        (Response("MISCONF canary"), RedisRefused, "MISCONF"),
        (Response("READONLY canary"), RedisRefused, "READONLY"),
        (Response("NOREPLICAS canary"), RedisRefused, "NOREPLICAS"),
        (Response("SOMETHINGNEW canary"), RedisRefused, "SOMETHINGNEW"),
        (Response("canary CANARY"), RedisRefused, "ERR"),
        (
            replied(
                redis_errors.NoPermissionError, "NOPERM", "User canary has no permissions to run the 'xclaim' command"
            ),
            RedisRefused,
            "+xclaim",
        ),
        (
            replied(redis_errors.NoPermissionError, "NOPERM", "No permissions to access a key: canary"),
            RedisRefused,
            "a key",
        ),
    ],
)
def test_an_error_is_explained_without_quoting_it(error: Exception, kind: type[JanitorError], text: str) -> None:
    said = to_user_error(error, "settling")
    assert isinstance(said, kind)
    assert text in str(said)
    assert not re.search("canary", str(said), re.IGNORECASE)


NOT_INSIDE_A_SCRIPT = {
    "CONNECTION", "TIMEOUT", "TLS", "TLSMISMATCH", "PROTOCOL", "TOOLARGE", "MAXCLIENTS", "DENIED",
    "NOAUTH", "WRONGPASS", "NOSCRIPT", "UNBLOCKED", "NOGROUP",
}  # fmt: skip
"""What an HSET that a script calls cannot answer."""


def test_settle_lua_holds_the_same_refusals_as_the_table() -> None:
    (table,) = re.findall(r"SERVER_REFUSES = \{(.*?)\}", settle_script().text, re.DOTALL)
    in_script = set(re.findall(r"(\w+) = true", table))
    assert in_script == {code for code, fault in FAULTS.items() if fault is not Fault.ENTRY} - NOT_INSIDE_A_SCRIPT
