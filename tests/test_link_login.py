"""How the link gets in: HELLO that may be refused, the role that HELLO tells, and what it says where it does not get in."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
import redis
import trustme
from redis.exceptions import ConnectionError, RedisError, ResponseError

from demo.redis import RedisServer
from shared.connection import IsReplica
from shared.errors import RedisRefused, RedisUnavailable
from shared.reach import TlsMismatch
from shared.redis_client import ServerLink
from shared.retry import Contact, Deadline, code_of, retry, to_user_error
from shared.settings import RedisSettings
from tests.cli import inside
from tests.conftest import Scene, Sweeper, new_scene, raw_client
from tests.fronts import Command, HangUp, Judging, Passage, Threaded, _encoded, _read_command, without_hello
from tests.test_link import Canned, echoing, linked, settings_of
from tests.test_out_of_reach import failed_tick, here, nobody_listens, tick

PASSWORD = "canary open sesame"
REFUSALS = {
    "unknown": "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'canary'",
    "unknown, with words of Redis 5": "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `canary`",
    "unsupported, without a code": "unsupported command 'HELLO'",
    "NOPROTO": "NOPROTO unsupported protocol version",
    "NOPERM": "NOPERM User default has no permissions to run the 'hello' command",
    "no options": "ERR HELLO takes no AUTH here",
}


@pytest.fixture(scope="module")
def locked() -> Iterator[RedisServer]:
    with RedisServer(search=False, arguments=("--requirepass", PASSWORD)) as running:
        client = raw_client(running, password=PASSWORD)
        client.execute_command("ACL", "SETUSER", "janitor", "on", f">{PASSWORD}", "+@all", "~*", "&*")
        client.close()
        yield running


class Refusing(Passage):
    """Answers HELLO with ``text`` itself, where the server behind it wants a login before anything."""

    def __init__(self, port: int, text: str) -> None:
        super().__init__(port)
        self._text = text
        self.seen: list[Command] = []
        self._client: ContextVar[asyncio.StreamWriter] = ContextVar("client")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client.set(writer)
        await super().serve(reader, writer)

    async def carry_commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            command = await _read_command(reader)
            self.seen.append(command)
            if command[0] == b"HELLO":
                self._client.get().write(f"-{self._text}\r\n".encode())
            else:
                writer.write(_encoded(command))

    def sent(self, name: bytes) -> list[Command]:
        return [command for command in self.seen if command[0] == name]


# --- RESP2 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("username", [None, "janitor"])
async def test_where_hello_is_refused_the_login_goes_by_auth_and_replies_come_in_resp2(
    locked: RedisServer, text: str, username: str | None
) -> None:
    async with Refusing(locked.port, text) as front, linked(front.port, username=username, password=PASSWORD) as link:
        assert await link.call("ACL", "WHOAMI") == (username or "default").encode()
        reply = await link.call("CONFIG", "GET", "port")
        assert reply == [b"port", str(locked.port).encode()]
        assert (await link.call("CLIENT", "GETNAME")) == b"stream-janitor"


async def test_a_server_that_refused_hello_is_not_asked_again(locked: RedisServer) -> None:
    async with Refusing(locked.port, REFUSALS["unknown"]) as front, linked(front.port, password=PASSWORD) as link:
        await asyncio.gather(*(link.call("PING") for _ in range(4)))
        asked = len(front.sent(b"HELLO"))
        assert 1 <= asked <= 4
        await link.reconnect()
        await asyncio.gather(*(link.call("PING") for _ in range(4)))
        assert len(front.sent(b"HELLO")) == asked
        assert front.accepted == 8


async def test_a_sweep_through_a_front_without_hello_settles_all_and_says_the_same(
    scene: Scene, sweep: Sweeper, server: RedisServer, mode: str
) -> None:
    scene.add_tweets(20)
    scene.add(b"no", b"id")
    scene.abandon()
    async with Judging(server.port, without_hello) as front:
        ended = await tick(sweep.janitor(scene.settings(**front.environment, SETTLE_MODE=mode)))
        assert (ended.error, ended.report.processed, ended.report.dead_lettered) == (None, 20, 1)
        again = await tick(sweep.janitor(scene.settings(**front.environment, SETTLE_MODE=mode)))
        assert (again.error, again.report.pending) == (None, 0)
        assert again.report.index == "ok"


def test_doctor_and_status_work_on_a_server_without_hello(scene: Scene, server: RedisServer) -> None:
    with Threaded(Judging(server.port, without_hello)) as front:
        environment = {**scene.environment, **front.environment}
        ran = inside(environment, "doctor", "--json")
        (connection,) = [record for record in ran.records if record["check"] == "connection"]
        assert connection["ok"]
        assert "RESP2" in connection["detail"]
        assert inside(environment, "status").code == 0


async def test_without_a_login_and_without_hello_nothing_is_logged_in(server: RedisServer) -> None:
    async with Judging(server.port, without_hello) as front, linked(front.port) as link:
        assert await link.call("PING") == b"PONG"
        assert not [command for command in front.seen if command[0] == b"AUTH"]


async def test_a_proxy_that_knows_no_client_command_either_is_no_reason_to_fail(locked: RedisServer) -> None:
    def judge(command: Command) -> str | None:
        return "ERR unknown command" if command[0] in (b"HELLO", b"CLIENT") else None

    async with Judging(locked.port, judge) as front, linked(front.port, password=PASSWORD) as link:
        assert await link.call("PING") == b"PONG"


@pytest.mark.parametrize("has_login", [True, False])
async def test_noauth_from_a_proxy_that_was_shown_the_login_in_hello_is_about_hello(
    locked: RedisServer, has_login: bool
) -> None:
    """Envoy with a password of its own: it looks for AUTH before it looks at what HELLO is."""
    async with Refusing(locked.port, "NOAUTH Authentication required.") as front:
        async with linked(front.port, password=PASSWORD if has_login else None) as link:
            if has_login:
                assert await link.call("PING") == b"PONG"
                return
            with pytest.raises(RedisError) as error:
                await link.call("PING")
        assert code_of(error.value) == "NOAUTH"
        assert not front.sent(b"AUTH")


@pytest.mark.parametrize(
    "text",
    [
        "WRONGPASS invalid username-password pair or user is disabled.",
        "ERR invalid password",
        "ERR Client sent AUTH, but no password is set",
        "DENIED Redis is running in protected mode because protected mode is enabled",
        "LOADING Redis is loading the dataset in memory",
        "ERR max number of clients reached",
    ],
)
async def test_a_refused_login_is_never_tried_a_second_time(locked: RedisServer, text: str) -> None:
    async with Refusing(locked.port, text) as front, linked(front.port, password="wrong") as link:
        with pytest.raises(RedisError):
            await link.call("PING")
        assert link.facts.protocol == 3
        assert not front.sent(b"AUTH")
        assert len(front.sent(b"HELLO")) == 1


async def test_the_password_that_a_refusal_quotes_is_in_no_error_behind_it(locked: RedisServer) -> None:
    quoting = f"ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' '{PASSWORD}-wrong'"
    async with Refusing(locked.port, quoting) as front, linked(front.port, password=f"{PASSWORD}-wrong") as link:
        with pytest.raises(RedisError) as error:
            await link.call("PING")
    assert code_of(error.value) in ("WRONGPASS", "NOAUTH")
    seen: BaseException | None = error.value
    while seen is not None:
        assert "canary" not in str(seen)
        seen = seen.__cause__ or seen.__context__


# --- the role ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def replica(own_server: RedisServer) -> Iterator[RedisServer]:
    primary = raw_client(own_server)
    primary.execute_command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    primary.close()
    arguments = ("--replicaof", "127.0.0.1", str(own_server.port), "--replica-read-only", "no")
    with RedisServer(search=False, arguments=arguments) as running:
        client = raw_client(running)
        deadline = time.monotonic() + 20
        while b"master_link_status:up" not in client.execute_command("INFO", "replication"):
            assert time.monotonic() < deadline
        client.close()
        yield running


async def test_a_replica_is_refused_and_named_even_if_it_takes_writes(
    replica: RedisServer, own_server: RedisServer, sweep: Sweeper
) -> None:
    primary, writable = raw_client(own_server), raw_client(replica)
    scene = new_scene(primary, own_server.environment, INDEX_SCHEMA="off")
    scene.add_tweets(3)
    scene.abandon()
    primary.execute_command("WAIT", 1, 5000)
    assert writable.execute_command("SET", "canary", 1) == b"OK"  # the control: it does take writes
    changes = here(REDIS_HOST=replica.address, REDIS_TLS="false", SWEEP_BUDGET_SEC="14")
    ended = await tick(sweep.janitor(scene.settings(**changes)))
    assert ended.error is not None
    assert "replica" in str(ended.error)
    assert "name the primary" in str(ended.error)
    assert replica.address in str(ended.error)
    assert ended.took_s < 9
    assert scene.pending() == 3
    assert writable.execute_command("KEYS", f"{scene.prefix}*") == []
    primary.close()
    writable.close()


def test_doctor_names_a_replica(replica: RedisServer, scene: Scene) -> None:
    ran = inside({**scene.environment, **replica.environment}, "doctor", "--json")
    said = " ".join(record["detail"] for record in ran.records if not record["ok"])
    assert ran.code != 0
    assert "REDIS_HOST leads to a replica" in said
    assert "name the primary" in said


async def test_in_a_cluster_a_replica_may_be_asked(replica: RedisServer) -> None:
    """It tells where the others are, and redirects whatever has a key."""
    async with linked(replica.port, cluster=True) as link:
        assert await link.call("PING") == b"PONG"
        assert link.facts.role == "replica"
    async with linked(replica.port) as link:
        with pytest.raises(IsReplica):
            await link.call("PING")


async def test_where_the_role_is_not_told_it_is_unknown_and_no_reason_to_refuse(replica: RedisServer) -> None:
    async with Judging(replica.port, without_hello) as front, linked(front.port) as link:
        assert await link.call("PING") == b"PONG"
        assert link.facts.role is None


@pytest.mark.parametrize("role", [b"replica", b"slave"])
async def test_both_words_for_a_replica_are_known(role: bytes) -> None:
    hello = b"%%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$%d\r\n%b\r\n" % (len(role), role)
    async with Canned(echoing, hello) as front, linked(front.port) as link:
        with pytest.raises(IsReplica):
            await link.call("ECHO", "x")
        assert [command[0] for command in front.seen if command[0] == b"ECHO"] == []


async def test_a_replica_that_becomes_the_primary_is_taken_at_the_next_connection(replica: RedisServer) -> None:
    async with linked(replica.port) as link:
        with pytest.raises(IsReplica):
            await link.call("PING")
        client = raw_client(replica)
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.close()
        assert await link.call("PING") == b"PONG"


# --- TLS on one side only ---------------------------------------------------------------------------------------------------


def server_side() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_on_and_the_server_plain_is_named_long_before_the_time_is_up(server: RedisServer) -> None:
    port = server.port
    link = ServerLink(settings_of(port, tls=True), 2, 60.0)
    began_s = time.monotonic()
    with pytest.raises(TlsMismatch) as error:
        await link.call("PING")
    assert time.monotonic() - began_s < 20
    said = to_user_error(error.value, "connecting")
    assert isinstance(said, RedisUnavailable)
    assert "TLS is on, but the server speaks without" in str(said)
    assert f"127.0.0.1:{port}" in str(said)
    await link.close()


async def test_tls_off_and_the_server_speaks_it_is_named(server: RedisServer) -> None:
    async with Passage(server.port, server_side()) as front, linked(front.port, timeout_s=5.0) as link:
        with pytest.raises(TlsMismatch) as error:
            await link.call("PING")
    assert "TLS is off, but the server speaks TLS: set REDIS_TLS=true" in str(to_user_error(error.value, "connecting"))


async def test_the_sweep_names_tls_on_one_side_only_and_does_not_wait(
    scene: Scene, sweep: Sweeper, server: RedisServer
) -> None:
    on = here(REDIS_HOST=server.address, REDIS_TLS="true", SWEEP_BUDGET_SEC="14")
    ended = await tick(sweep.janitor(scene.settings(**on)))
    assert "TLS is on, but the server speaks without" in str(ended.error)
    assert ended.took_s < 9
    async with Passage(server.port, server_side()) as front:
        off = {**here(front, SWEEP_BUDGET_SEC="14"), "REDIS_TLS": "false"}
        ended = await tick(sweep.janitor(scene.settings(**off)))
    assert "TLS is off, but the server speaks TLS" in str(ended.error)
    assert ended.took_s < 9


async def test_a_server_that_hangs_up_is_not_said_to_speak_tls() -> None:
    async with HangUp() as front, linked(front.port) as link:
        with pytest.raises(ConnectionError) as error:
            await link.call("PING")
    assert code_of(error.value) == "CONNECTION"


# --- how long a mistake is tried --------------------------------------------------------------------------------------------


async def test_a_refused_port_ends_a_sweep_that_had_no_reply_in_two_seconds(scene: Scene, sweep: Sweeper) -> None:
    changes = here(REDIS_HOST=f"127.0.0.1:{nobody_listens()}", SWEEP_BUDGET_SEC="14")
    ended = await tick(sweep.janitor(scene.settings(**changes)))
    assert "nothing listens there" in str(ended.error)
    assert ended.took_s < 9  # two, and what a busy machine takes


class Attempts:
    """Fails with each of ``errors`` in turn, then with ``then``; what the server answered with counts as an answer."""

    def __init__(self, *errors: Exception, then: Exception | None = None) -> None:
        self.errors, self.then, self.answers = list(errors), then, 0

    async def __call__(self) -> str:
        error = self.errors.pop(0) if self.errors else self.then
        self.answers += error is None or (isinstance(error, ResponseError) and not isinstance(error, IsReplica))
        if error is not None:
            raise error
        return "done"


async def no_reconnect() -> None: ...


def met(cause: Exception) -> ConnectionError:
    error = ConnectionError("connecting")
    error.__context__ = cause
    return error


REFUSED = met(ConnectionRefusedError(111, "refused"))
ALL_REFUSED = met(
    OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed ('1', 1)")
)
UNKNOWN_NAME = met(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
NAME_LATER = met(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
RESET = met(ConnectionResetError(104, "reset"))


@pytest.mark.parametrize(
    "error", [REFUSED, ALL_REFUSED, UNKNOWN_NAME, met(ssl.SSLError(1, "handshake failure")), IsReplica()]
)
@pytest.mark.parametrize("heard", [False, True])
async def test_a_mistake_is_waited_for_only_after_a_first_reply(
    error: Exception, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.retry.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("shared.retry.LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr("shared.retry.UNANSWERED_S", 0.1)
    attempts = Attempts(then=error)
    contact = Contact(attempts)
    attempts.answers += heard
    began_s = time.monotonic()
    with pytest.raises(type(error)):
        await retry(attempts, Deadline.after(1.0), no_reconnect, contact)
    took_s = time.monotonic() - began_s
    assert (took_s >= 0.9) is heard


@pytest.mark.parametrize("error", [NAME_LATER, RESET, ConnectionError("x")])
async def test_what_is_no_mistake_is_waited_for_from_the_start(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.retry.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("shared.retry.UNANSWERED_S", 0.0)
    attempts = Attempts(error, error, error)
    assert await retry(attempts, Deadline.after(30), no_reconnect, Contact(attempts)) == "done"


async def test_an_error_that_the_server_answered_is_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.retry.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("shared.retry.UNANSWERED_S", 0.0)
    attempts = Attempts(ResponseError("BUSY x"), REFUSED, REFUSED)
    assert await retry(attempts, Deadline.after(30), no_reconnect, Contact(attempts)) == "done"


# --- in words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (REFUSED, RedisUnavailable, "nothing listens there (refused)"),
        (ALL_REFUSED, RedisUnavailable, "nothing listens there (refused)"),
        (UNKNOWN_NAME, RedisUnavailable, "there is no host of this name"),
        (NAME_LATER, RedisUnavailable, "cannot be looked up at the moment"),
        (ResponseError("unknown command 'XCLAIM', with args beginning with: 'canary'"), RedisRefused, "the command XCLAIM"),
        (ResponseError("ERR unknown command `xpending`, with args beginning with: `canary`"), RedisRefused, "XPENDING"),
        (ResponseError("Unknown Redis command called from script script: 0f"), RedisRefused, "a command that is needed"),
        (ResponseError("DENIED Redis is running in protected mode canary"), RedisRefused, "protected mode"),
        (ConnectionError("max number of clients reached", status_code="ERR"), RedisUnavailable, "maxclients"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_named(error: Exception, kind: type[Exception], text: str) -> None:
    said = to_user_error(error, "connecting")
    assert isinstance(said, kind)
    assert text in str(said)
    assert "canary" not in str(said)
    if "maxclients" in text or "protected" in text:
        assert "firewall" not in str(said)


async def test_too_many_clients_is_said_by_a_real_server(own_server: RedisServer) -> None:
    client = raw_client(own_server)
    client.execute_command("CONFIG", "SET", "maxclients", "1")
    async with linked(own_server.port) as link:
        with pytest.raises(RedisError) as error:
            await link.call("PING")
    client.close()
    assert code_of(error.value) in ("MAXCLIENTS", "CONNECTION")  # it may close before our HELLO is through


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_a_password_that_ends_in_a_line_break_gets_a_hint_where_the_login_is_refused(
    locked: RedisServer, own_scene: Scene, sweep: Sweeper, end: str
) -> None:
    changes = here(REDIS_HOST=locked.address, REDIS_PASSWORD=PASSWORD + end)
    message = await failed_tick(sweep.janitor(own_scene.settings(**changes)))
    assert "REDIS_PASSWORD ends in a line break" in message
    assert "canary" not in message
    plain = here(REDIS_HOST=locked.address, REDIS_PASSWORD=PASSWORD + "x")
    assert "line break" not in await failed_tick(sweep.janitor(own_scene.settings(**plain)))


async def test_errors_of_the_connection_name_the_server(locked: RedisServer) -> None:
    nowhere = nobody_listens()
    for port, password in ((nowhere, None), (locked.port, "wrong"), (locked.port, None)):
        async with linked(port, password=password) as link:
            with pytest.raises(RedisError) as error:
                await link.call("PING")
        assert f"127.0.0.1:{port}" in str(to_user_error(error.value, "connecting"))


def test_the_settings_of_these_tests_are_those_of_one_server() -> None:
    assert settings_of(1) == RedisSettings("127.0.0.1", 1, None, None, False, None)
    assert redis.__version__
