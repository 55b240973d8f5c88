"""Login with tokens that change: against real servers whose users' passwords change, and with redis-entraid's own providers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import redis
import trustme
from redis.auth.token import SimpleToken, TokenInterface
from redis.credentials import StreamingCredentialProvider

from demo.redis import RedisServer
from monitor.janitor import Janitor
from shared import entra
from shared.errors import RedisRefused, RedisUnavailable, SettingsError
from shared.redis_client import Command, Reply, ServerLink
from shared.settings import EntraSettings, RedisSettings, Settings
from tests.conftest import Scene, Sweeper, raw_client
from tests.fronts import Passage
from tests.patience import in_time

pytest.importorskip("redis_entraid")

ROOT = Path(__file__).parent.parent
LIFE_S = 3600.0
RIGHTS = ("~*", "&*", "+@all", "-auth")
"""The login itself needs no right."""
ENTRA = {"REDIS_AUTH": "entra"}
BASE = {
    "REDIS_HOST": "cache.example:10000",
    "STREAM_NAME": "s",
    "STREAM_CONSUMER_GROUP_NAME": "g",
    "MONITORING_CONSUMER_NAME": "c",
    "MIN_IDLE_TIME_SEC": "10",
    **ENTRA,
}


class Clock:
    """The wall clock that tokens go by; a test may set it forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Issuer:
    """A token source of ours: each token is a new password of an ACL user on a real server.

    With ``renames`` each token is for a user of its own: removing that one closes every connection that is still logged in
    with the old token, as Azure does when a token ends.
    """

    def __init__(self, server: RedisServer, clock: Callable[[], float], renames: bool) -> None:
        self._admin = raw_client(server)
        self._clock, self._renames = clock, renames
        self.values: list[str] = []
        self.failure: Exception | None = None
        self.silent = threading.Event()
        self.requests = 0

    def request_token(self, force_refresh: bool = False) -> TokenInterface:
        self.requests += 1
        while self.silent.is_set():
            time.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        self.values.append(f"secret-token-{len(self.values) + 1}")
        self._admin.execute_command("ACL", "SETUSER", self._user(), "on", f">{self.values[-1]}", *RIGHTS)
        now_ms = self._clock() * 1000
        return SimpleToken(self.values[-1], now_ms + LIFE_S * 1000, now_ms, {"oid": self._user()})

    def _user(self, back: int = 0) -> str:
        return f"identity-{len(self.values) - back}" if self._renames else "identity"

    def end_previous_token(self) -> None:
        if self._renames:
            assert self._admin.execute_command("ACL", "DELUSER", self._user(back=1)) == 1
        else:
            self._admin.execute_command("ACL", "SETUSER", self._user(), f"<{self.values[-2]}")

    def end_all(self) -> None:
        self._admin.execute_command("ACL", "DELUSER", self._user())

    def connections(self) -> dict[bytes, bytes]:
        """The living connections that logged in with a token: their ids and users."""
        lines = self._admin.execute_command("CLIENT", "LIST").splitlines()
        clients = (dict(part.split(b"=", 1) for part in line.split()) for line in lines)
        return {one[b"id"]: one[b"user"] for one in clients if one[b"user"].startswith(b"identity")}

    def close(self) -> None:
        self.silent.clear()
        self._admin.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(entra, "now_s", clock)
    return clock


@pytest.fixture(params=[True, False], ids=["connections of old tokens are closed", "the user's password changes"])
def renames(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def issuer(
    own_server: RedisServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    whole_log: pytest.LogCaptureFixture,
    renames: bool,
) -> Iterator[Issuer]:
    """No token of its is ever in a log."""
    issuer = Issuer(own_server, clock, renames)
    monkeypatch.setattr(entra, "identity_provider", lambda settings: issuer)
    yield issuer
    issuer.close()
    assert_in_no_log(whole_log, issuer.values)


@pytest.fixture
def whole_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Whatever any library logs, down to DEBUG."""
    caplog.set_level(logging.DEBUG)
    return caplog


def assert_in_no_log(log: pytest.LogCaptureFixture, tokens: list[str]) -> None:
    for record in log.get_records("call"):
        text = f"{record.getMessage()} {record.exc_info} {record.__dict__}"
        assert not any(token in text for token in tokens), record.name


def renewal_is_over(link: ServerLink) -> bool:
    source = link._client.connection_pool.connection_kwargs["token_source"]
    return source._request.done()


async def until(holds: Callable[[], object], longest_s: float = 10.0) -> None:
    deadline = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def busy_tick(janitor: Janitor, scene: Scene, tweets: int = 300) -> None:
    """A tick that uses several connections at once, each for pipelines; everything that it takes up gets through."""
    scene.add_tweets(tweets)
    scene.abandon()
    (report,) = await janitor.tick()
    assert (report.error, report.processed) == (None, tweets), report


# --- tokens change ----------------------------------------------------------------------------------------------------------


async def test_living_connections_log_in_anew_before_the_old_token_ends_and_ticks_go_on(
    own_scene: Scene, issuer: Issuer, clock: Clock, sweep: Sweeper, mode: str
) -> None:
    janitor = sweep.janitor(own_scene.settings(**ENTRA, SETTLE_MODE=mode, CONCURRENCY="4", PAGE_SIZE="50"))
    link = janitor._link
    await busy_tick(janitor, own_scene)
    first_connections = issuer.connections()
    for round_number in range(2, 5):
        clock.ahead_s += 0.75 * LIFE_S
        await busy_tick(janitor, own_scene)  # goes on with the old token, and asks for the next one beside its work
        await until(lambda: renewal_is_over(link))
        await busy_tick(janitor, own_scene)
        assert len(issuer.values) == round_number
        issuer.end_previous_token()
        await busy_tick(janitor, own_scene)
    assert first_connections.keys() & issuer.connections().keys(), "no connection has lived on"


async def test_a_living_connection_logs_in_anew_and_stays_the_same(
    issuer: Issuer, own_server: RedisServer, clock: Clock
) -> None:
    async with linked(own_server) as link:
        first = await link.call("CLIENT", "ID")
        clock.ahead_s = 0.75 * LIFE_S
        await link.call("PING")
        await until(lambda: len(issuer.values) == 2 and renewal_is_over(link))
        await link.pipelined([("PING",), ("PING",)])
        issuer.end_previous_token()
        assert await link.call("CLIENT", "ID") == first


async def test_over_tls_a_living_connection_logs_in_anew_too(
    issuer: Issuer, own_server: RedisServer, clock: Clock, tmp_path: Path
) -> None:
    authority, ca_file, context = trustme.CA(), tmp_path / "ca.pem", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Passage(own_server.port, context) as front:
        settings = RedisSettings(
            "127.0.0.1", front.port, None, None, True, str(ca_file), EntraSettings("managed", None)
        )
        link = ServerLink(settings, 8, 5.0)
        first = await link.call("CLIENT", "ID")
        clock.ahead_s = 0.75 * LIFE_S
        await link.call("PING")
        await until(lambda: len(issuer.values) == 2 and renewal_is_over(link))
        await link.call("PING")
        issuer.end_previous_token()
        assert await link.call("CLIENT", "ID") == first
        await link.close()


async def test_a_connection_that_was_idle_while_its_token_ended_is_replaced_without_an_error(
    issuer: Issuer, own_server: RedisServer, clock: Clock
) -> None:
    async with linked(own_server) as link:
        await asyncio.gather(*(link.call("PING") for _ in range(3)))
        clock.ahead_s = 0.75 * LIFE_S
        await link.call("PING")
        await until(lambda: len(issuer.values) == 2 and renewal_is_over(link))
        await link.call("PING")
        issuer.end_previous_token()
        assert await asyncio.gather(*(link.call("ECHO", number) for number in range(3))) == [b"0", b"1", b"2"]


async def test_a_token_that_ended_between_two_ticks_is_replaced_first(
    issuer: Issuer, own_server: RedisServer, clock: Clock
) -> None:
    async with linked(own_server) as link:
        await link.call("PING")
        clock.ahead_s = 2 * LIFE_S
        issuer.end_all()
        assert await link.call("PING") == b"PONG"
        assert len(issuer.values) == 2


@pytest.mark.parametrize(("life_share", "requests"), [(0.699, 1), (0.701, 2)])
async def test_the_next_token_is_asked_for_once_seven_tenths_of_a_life_are_over(
    issuer: Issuer, own_server: RedisServer, clock: Clock, life_share: float, requests: int
) -> None:
    async with linked(own_server) as link:
        await link.call("PING")
        clock.ahead_s = life_share * LIFE_S
        await asyncio.gather(*(link.call("PING") for _ in range(5)))
        await until(lambda: renewal_is_over(link))
        await asyncio.gather(*(link.call("PING") for _ in range(5)))
        assert issuer.requests == requests


async def hammered(link: ServerLink | RedisPysOwn, renew: Callable[[], Any], seconds: float) -> list[str]:
    """What went wrong while six tasks used the link and tokens changed all the time: wrong replies and errors."""
    wrong: list[str] = []
    deadline = time.monotonic() + seconds

    async def ask(task: int) -> None:
        number = 0
        while time.monotonic() < deadline and not wrong:
            number += 1
            wanted = [b"%d-%d-%d" % (task, number, part) for part in range(1 + 19 * (number % 2))]
            try:
                got = await link.pipelined([("ECHO", text) for text in wanted])
            except Exception as error:  # noqa: BLE001
                wrong.append(type(error).__name__)
            else:
                if got != wanted:
                    wrong.append(f"{got[0]!r:.30} instead of {wanted[0]!r}")

    async def change() -> None:
        while time.monotonic() < deadline and not wrong:
            await renew()
            await asyncio.sleep(0.005)

    await asyncio.gather(change(), *(ask(task) for task in range(6)))
    return wrong


@pytest.mark.parametrize("renames", [False], indirect=True)
async def test_replies_stay_with_their_commands_while_tokens_change(
    issuer: Issuer, own_server: RedisServer, clock: Clock
) -> None:
    async def renew() -> None:
        clock.ahead_s += 0.71 * LIFE_S

    async with linked(own_server) as link:
        assert await hammered(link, renew, 1.0) == []
    assert len(issuer.values) > 20


class Streaming(StreamingCredentialProvider):
    """What redis-py has for this: the pool itself sends AUTH when a token comes."""

    renewed: Any

    def get_credentials(self) -> tuple[str, str]:
        return "identity", "word"

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()

    def on_next(self, callback: Any) -> None:
        self.renewed = callback

    def on_error(self, callback: Any) -> None: ...

    def is_streaming(self) -> bool:
        return True


class RedisPysOwn:
    """A link that leaves everything to redis-py."""

    def __init__(self, port: int, provider: Streaming) -> None:
        self._client = redis.asyncio.Redis(
            port=port, protocol=3, credential_provider=provider, socket_timeout=None, max_connections=16
        )

    async def pipelined(self, commands: Iterable[Command]) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def close(self) -> None:
        await self._client.aclose()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_control_redis_pys_own_renewal_mixes_up_replies_on_busy_connections(own_server: RedisServer) -> None:
    """The reason why it is not used. Should this fail: redis-py has mended it, and may be used again."""
    admin, provider = raw_client(own_server), Streaming()
    admin.execute_command("ACL", "SETUSER", "identity", "on", ">word", *RIGHTS)
    admin.close()
    link = RedisPysOwn(own_server.port, provider)
    now_ms = time.time() * 1000
    token = SimpleToken("word", now_ms + LIFE_S, now_ms, {"oid": "identity"})

    async def renew() -> None:
        with contextlib.suppress(redis.RedisError, RuntimeError):
            await provider.renewed(token)

    try:
        assert await hammered(link, renew, 20.0)
    finally:
        await link.close()
        del link
        gc.collect()  # what redis-py has left open is told of here, not in another test


# --- tokens do not come, or are no good -------------------------------------------------------------------------------------


async def test_while_the_old_token_is_good_a_failed_renewal_is_only_a_warning(
    issuer: Issuer, own_server: RedisServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(own_server) as link:
        await link.call("PING")
        issuer.failure = OSError(issuer.values[0])
        clock.ahead_s = 0.75 * LIFE_S
        await link.call("PING")
        await until(lambda: issuer.requests == 2 and renewal_is_over(link))
        assert await link.call("PING") == b"PONG"
        assert issuer.requests == 2, "the next request has to wait for a while"
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
            "the Entra token was not renewed (OSError); the old one is good for 900 s"
        ]
        issuer.failure = None
        clock.ahead_s += 31
        await link.call("PING")
        await until(lambda: issuer.requests == 3 and renewal_is_over(link))
        await link.call("PING")
        issuer.end_previous_token()
        assert await link.call("PING") == b"PONG"


async def test_without_any_token_the_tick_fails_and_names_the_cause_not_the_text(
    own_scene: Scene, issuer: Issuer, sweep: Sweeper
) -> None:
    issuer.failure = OSError("do-not-print")
    janitor = sweep.janitor(own_scene.settings(**ENTRA))
    (report,) = await janitor.tick()
    assert "Entra ID gave no token (OSError)" in str(report.error)
    assert "do-not-print" not in str(report)
    issuer.failure = None
    await busy_tick(janitor, own_scene, tweets=3)


async def test_a_silent_identity_endpoint_fails_the_tick_in_time_and_is_asked_once(
    own_scene: Scene, issuer: Issuer, sweep: Sweeper
) -> None:
    issuer.silent.set()
    janitor = sweep.janitor(own_scene.settings(**ENTRA, SWEEP_BUDGET_SEC="1"))
    for _ in range(2):
        began_s = time.monotonic()
        (report,) = await janitor.tick()
        assert time.monotonic() - began_s < in_time(1.5)
        assert "Entra ID gave no token (no answer in time)" in str(report.error)
    assert issuer.requests == 1
    issuer.silent.clear()
    await until(lambda: renewal_is_over(janitor._link))
    await busy_tick(janitor, own_scene, tweets=3)


async def test_a_token_that_redis_refuses_is_told_and_not_shown_again(
    own_scene: Scene, issuer: Issuer, own_server: RedisServer, sweep: Sweeper
) -> None:
    janitor = sweep.janitor(own_scene.settings(**ENTRA))
    await busy_tick(janitor, own_scene, tweets=3)
    issuer.end_all()
    await janitor.close()
    (report,) = await janitor.tick()
    assert "Redis refused the Entra token of the identity with the object id identity" in str(report.error)
    assert "secret" not in str(report)
    await busy_tick(janitor, own_scene, tweets=3)
    assert issuer.requests == 2


async def test_a_token_that_redis_refuses_on_a_living_connection_is_told(
    issuer: Issuer, own_server: RedisServer, clock: Clock
) -> None:
    async with linked(own_server) as link:
        await link.call("PING")
        clock.ahead_s = 0.75 * LIFE_S
        await link.call("PING")
        await until(lambda: len(issuer.values) == 2 and renewal_is_over(link))
        issuer._admin.execute_command("ACL", "SETUSER", issuer._user(), "resetpass")
        with pytest.raises(RedisRefused, match="refused the Entra token") as refusal:
            await link.call("PING")
        assert refusal.value.__suppress_context__
        assert await link.call("PING") == b"PONG"
        assert issuer.requests == 3


async def test_a_server_that_quotes_what_it_does_not_know_gets_no_token_into_a_message(
    issuer: Issuer, own_server: RedisServer
) -> None:
    with RedisServer(search=False, arguments=("--rename-command", "HELLO", "")) as old:
        async with linked(old) as link:
            with pytest.raises(RedisRefused) as refusal:
                await link.call("PING")
    assert issuer.values
    assert "secret" not in str(refusal.value)
    assert refusal.value.__suppress_context__


async def test_no_token_is_in_a_repr(issuer: Issuer, own_server: RedisServer) -> None:
    async with linked(own_server) as link:
        await link.call("PING")
        pool = link._client.connection_pool
        source = pool.connection_kwargs["token_source"]
        seen = [
            repr(one) for one in (link, link._client, pool, source, await source.token(), *pool._available_connections)
        ]
    assert issuer.values[0] not in " ".join(seen)


# --- settings ---------------------------------------------------------------------------------------------------------------


def problems_of(**changes: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({**BASE, **changes})
    return refusal.value.problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"REDIS_PASSWORD": "hidden"}, "REDIS_PASSWORD is set, but REDIS_AUTH=entra"),
        ({"REDIS_USERNAME": "someone"}, "REDIS_USERNAME is set, but with REDIS_AUTH=entra"),
        ({"REDIS_TLS": "false"}, "REDIS_TLS is false, but with REDIS_AUTH=entra"),
        ({"REDIS_AUTH": "kerberos"}, "REDIS_AUTH: expected password or entra"),
        ({"REDIS_ENTRA_CREDENTIAL": "some"}, "REDIS_ENTRA_CREDENTIAL: expected managed or default"),
        (
            {"REDIS_AUTH": "password", "REDIS_ENTRA_CLIENT_ID": "1"},
            "REDIS_ENTRA_CLIENT_ID is set, but REDIS_AUTH is not",
        ),
        (
            {"REDIS_AUTH": "", "REDIS_ENTRA_CREDENTIAL": "managed"},
            "REDIS_ENTRA_CREDENTIAL is set, but REDIS_AUTH is not",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, str], problem: str) -> None:
    (told,) = problems_of(**changes)
    assert told.startswith(problem)
    assert "hidden" not in told


def test_the_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis_entraid", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (told,) = problems_of()
    assert told.startswith("REDIS_AUTH: entra needs a package: pip install -r requirements-entra.txt")


def test_who_logs_in_is_read() -> None:
    assert Settings.from_env(BASE).redis.entra == EntraSettings("managed", None)
    changes = {"REDIS_ENTRA_CREDENTIAL": "default", "REDIS_ENTRA_CLIENT_ID": "abc"}
    assert Settings.from_env({**BASE, **changes}).redis.entra == EntraSettings("default", "abc")
    assert Settings.from_env({**BASE, "REDIS_AUTH": "password"}).redis.entra is None


def test_with_a_password_nothing_of_entra_is_imported() -> None:
    program = (
        "import sys; from monitor.janitor import Janitor; from shared.settings import Settings; "
        f"Janitor(Settings.from_env({ {**BASE, 'REDIS_AUTH': 'password'}!r})); "
        "print([name for name in sys.modules if name.split('.')[0] in ('redis_entraid', 'msal', 'azure', 'requests')"
        " or name == 'shared.entra'])"
    )  # fmt: skip
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# --- redis-entraid itself ---------------------------------------------------------------------------------------------------


class IdentityEndpoint:
    """The platform's identity endpoint, as App Service and Functions have it; its tokens are passwords of an ACL user."""

    def __init__(self, admin: redis.Redis) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.values: list[str] = []
        self.status = 200
        self.is_silent = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(parse_qs(urlsplit(self.path).query))
                if outer.is_silent:
                    time.sleep(1.0)
                body = json.dumps(outer.answer(admin)) if outer.status == 200 else "{}"
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Joined at close: an answer that comes late would use `random` (redis-py's back-off) in the midst of another test.
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, admin: redis.Redis) -> dict[str, str]:
        import jwt

        # Under five minutes: the library's cache takes it for ended, so each request comes here.
        ends_s = int(time.time()) + 290
        claims = {"oid": "identity", "exp": ends_s, "number": len(self.values)}
        token = jwt.encode(claims, "k" * 32, algorithm="HS256")
        self.values.append(token)
        admin.execute_command("ACL", "SETUSER", "identity", "on", f">{token}", *RIGHTS)
        return {"access_token": token, "expires_on": str(ends_s), "resource": "r", "token_type": "Bearer"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch, whole_log: pytest.LogCaptureFixture
) -> Iterator[IdentityEndpoint]:
    admin = raw_client(own_server)
    endpoint = IdentityEndpoint(admin)
    monkeypatch.setenv("IDENTITY_ENDPOINT", endpoint.url)
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    yield endpoint
    endpoint.close()
    admin.close()
    assert_in_no_log(whole_log, endpoint.values)


@pytest.mark.parametrize("credential", ["managed", "default"])
@pytest.mark.parametrize("client_id", [None, "1234-of-a-user-assigned-identity"])
async def test_the_platforms_identity_logs_in_and_its_token_is_renewed(
    endpoint: IdentityEndpoint,
    own_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    credential: str,
    client_id: str | None,
) -> None:
    async with linked(own_server, EntraSettings(credential, client_id)) as link:
        assert await link.call("ACL", "WHOAMI") == b"identity"
        assert endpoint.asked[0]["resource"][0].startswith("https://redis.azure.com")
        assert endpoint.asked[0].get("client_id") == (client_id and [client_id])
        first = await link.call("CLIENT", "ID")
        monkeypatch.setattr(entra, "now_s", lambda: time.time() + 250)
        await link.call("PING")
        await until(lambda: renewal_is_over(link))
        await link.call("PING")
        own_server_forgets(own_server, endpoint.values[0])
        assert await link.call("CLIENT", "ID") == first
        logins = await link.call("INFO", "commandstats")
    if credential == "managed":  # azure-identity has a cache of its own, which keeps a token to its last minutes
        assert len(endpoint.values) == 2
        assert b"cmdstat_auth:calls=1," in logins


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (503, 3)])
async def test_an_endpoint_that_refuses_is_told_and_one_that_is_busy_is_asked_again(
    endpoint: IdentityEndpoint, own_server: RedisServer, status: int, requests: int
) -> None:
    endpoint.status = status
    async with linked(own_server, EntraSettings("managed", None)) as link:
        with pytest.raises(RedisUnavailable, match=r"gave no token \(RequestTokenErr"):
            await link.call("PING")
        assert len(endpoint.asked) == requests


async def test_an_endpoint_that_is_silent_is_left_after_its_time(
    endpoint: IdentityEndpoint, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entra, "ENDPOINT_TIMEOUT_S", 0.1)
    endpoint.is_silent = True
    async with linked(own_server, EntraSettings("managed", None)) as link:
        with pytest.raises(RedisUnavailable, match="gave no token"):
            await link.call("PING")
        endpoint.is_silent = False
        assert await link.call("PING") == b"PONG"


def own_server_forgets(server: RedisServer, token: str) -> None:
    admin = raw_client(server)
    admin.execute_command("ACL", "SETUSER", "identity", f"<{token}")
    admin.close()


@contextlib.asynccontextmanager
async def linked(server: RedisServer, settings: EntraSettings | None = None) -> Any:
    settings = settings or EntraSettings("managed", None)
    link = ServerLink(RedisSettings("127.0.0.1", server.port, None, None, False, None, settings), 8, 5.0)
    try:
        yield link
    finally:
        await link.close()
