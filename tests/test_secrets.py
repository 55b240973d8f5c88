"""No secret and no payload in what is printed, logged or raised, at any level, in any error path."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from azure.functions.timer import TimerRequest

import function_app
from demo.redis import RedisServer
from shared.errors import JanitorError
from shared.settings import DEFAULTS, Settings
from tests.conftest import Scene
from tests.fronts import BlackHole, Command, Front, HangUp, Judging, Passage, SilentAfter
from tests.test_tls import server_side

CANARY = "kanarie-7Qx"
"""In the password, in ids (and so in hash keys), in field names and values."""


class Everything:
    """All that a tick lets out: log records of every logger at every level, with their attributes, and tracebacks."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.records = 0

    def take(self, record: logging.LogRecord) -> None:
        self.records += 1
        self._text.write(logging.Formatter("%(name)s %(message)s").format(record) + f" {vars(record)!r}\n")

    def take_error(self, error: BaseException) -> None:
        """As the platform's worker does: the whole traceback with its causes and contexts, whether they are hidden or not."""
        self._text.write("".join(traceback.format_exception(error)))
        seen: BaseException | None = error
        while seen is not None:
            self._text.write(f"{seen!r} {seen} {vars(seen)!r} {seen.args!r}\n")
            seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)

    def write(self, text: str) -> None:
        self._text.write(text)

    def __str__(self) -> str:
        return self._text.getvalue()


@pytest.fixture
def everything(capfd: pytest.CaptureFixture[str]) -> Iterator[Everything]:
    """Fails the test if the canary is in anything that came out."""
    everything = Everything()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            everything.take(record)

    root, handler = logging.getLogger(), Handler(1)
    root.addHandler(handler)
    names = ("monitor", "shared", "redis", "redis.asyncio", "asyncio", "tenacity", "azure", "opentelemetry")
    loggers = [root, *map(logging.getLogger, names)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    yield everything
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    root.removeHandler(handler)
    printed = capfd.readouterr()
    everything.write(printed.out + printed.err)
    at = str(everything).find(CANARY)
    assert at < 0, str(everything)[max(at - 300, 0) : at + 300]


Ring = Callable[..., "asyncio.Future[str]"]


@pytest.fixture
async def ring(scene: Scene, everything: Everything, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ring]:
    """Ring the bell under the scene's settings, logged in with the canary; what it raised, or nothing."""
    scene.raw.execute_command("ACL", "SETUSER", scene.stream, "on", f">{CANARY}", "+@all", "~*", "&*")
    login = {"REDIS_USERNAME": scene.stream, "REDIS_PASSWORD": CANARY, "SWEEP_BUDGET_SEC": "1"}
    instance = function_app._Instance
    for name, value in {"janitor": None, "loop": None, "last_began_s": None, "last_took_s": 0.0}.items():
        monkeypatch.setattr(instance, name, value)

    async def ring_with(**changes: str) -> str:
        for name in DEFAULTS:
            monkeypatch.delenv(name, raising=False)
        for name, value in {**scene.environment, **login, **changes}.items():
            monkeypatch.setenv(name, value)
        try:
            await function_app.monitor(TimerRequest())
        except JanitorError as error:
            everything.take_error(error)
            return str(error)
        return ""

    yield ring_with  # type: ignore[misc]
    if instance.janitor is not None:
        await instance.janitor.close()
    scene.raw.execute_command("ACL", "DELUSER", scene.stream)


@pytest.fixture
def payload(scene: Scene) -> Scene:
    """Stuck entries with the canary wherever an entry can hold it: healthy, bad, and one that the index refuses."""
    scene.environment["INDEX_SCHEMA"] = "id TEXT number NUMERIC"
    leave_stuck(scene)
    return scene


def leave_stuck(scene: Scene) -> None:
    scene.add("id", f"{CANARY}-1", "text", CANARY, CANARY, "x", "traceparent", CANARY, "tracestate", CANARY)
    scene.add("user", CANARY)
    scene.add("id", "", "text", CANARY)
    scene.add("id", f"{CANARY}-{'x' * 2000}")
    scene.add("id", f"{CANARY}-string")
    scene.raw.execute_command("SET", f"{scene.prefix}{CANARY}-string", CANARY)
    scene.add("id", f"{CANARY}-refused", "number", CANARY)
    gone = scene.add("id", f"{CANARY}-gone", "text", CANARY)
    scene.abandon()
    scene.raw.execute_command("XDEL", scene.stream, gone)


# --- what went well, and bad entries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["overwrite", "newer", "keep"])
async def test_success_bad_entries_and_refused_documents(
    payload: Scene, ring: Ring, everything: Everything, mode: str, on_conflict: str
) -> None:
    assert await ring(SETTLE_MODE=mode, ON_CONFLICT=on_conflict) == ""
    assert payload.pending() == 0
    told = str(everything)
    assert "4 dead lettered" in told
    assert "1 deleted" in told
    assert "1 unsearchable" in told
    assert everything.records > 1


async def test_bad_entries_that_stay_pending(payload: Scene, ring: Ring, mode: str, everything: Everything) -> None:
    assert await ring(SETTLE_MODE=mode, DEAD_LETTER_STREAM="off") == ""
    assert "4 failed" in str(everything)


async def test_dead_letter_stream_of_another_type(
    payload: Scene, ring: Ring, mode: str, everything: Everything
) -> None:
    payload.raw.execute_command("SET", f"{payload.stream}:dead", CANARY)
    assert await ring(SETTLE_MODE=mode) == ""
    assert "the dead-letter stream refused it (WRONGTYPE)" in str(everything)


@pytest.mark.parametrize("schema", [f"id TEXT {CANARY}", "id TEXT number NUMERIC SORTABLE"])
async def test_index_that_cannot_be_created_or_is_another(payload: Scene, ring: Ring, schema: str) -> None:
    if CANARY not in schema:
        payload.raw.execute_command(
            "FT.CREATE", payload.index, "ON", "HASH", "PREFIX", "1", "other:", "SCHEMA", "a", "TAG"
        )
    assert await ring(INDEX_SCHEMA="id TEXT number NOSUCHTYPE" if CANARY in schema else schema) == ""


# --- the server refuses -----------------------------------------------------------------------------------------------------


def quoting(error: str, *names: bytes) -> Callable[[Command], str | None]:
    """Refuses these commands with an error that quotes what they held, as Redis's own errors may."""
    return lambda command: f"{error} {b' '.join(command[1:])[:200].decode('latin-1')}" if command[0] in names else None


@pytest.mark.parametrize("error", ["OOM", "READONLY", "NOPERM", "WRONGTYPE", "ODD", "ERR"])
@pytest.mark.parametrize(
    "name", [b"HSET", b"EVALSHA", b"XACK", b"XADD", b"XRANGE", b"XCLAIM", b"FT.SEARCH", b"FT.CREATE"]
)
async def test_errors_that_quote_the_data(
    payload: Scene, ring: Ring, server: RedisServer, error: str, name: bytes
) -> None:
    mode = "script" if name == b"EVALSHA" else "gather"
    async with Judging(server.port, quoting(error, name)) as front:
        # Some errors are met until the budget ends, so it is short; on a busy machine too short to get as far as that.
        for budget_s in ("0.6", "3", "15"):
            await ring(SETTLE_MODE=mode, SWEEP_BUDGET_SEC=budget_s, **front.environment)
            if front.refused:
                break
            leave_stuck(payload)
        assert front.refused


async def test_full_memory(payload: Scene, ring: Ring, mode: str, own_server: RedisServer, own_scene: Scene) -> None:
    own_scene.add("id", CANARY, "text", CANARY)
    own_scene.abandon()
    own_scene.raw.execute_command("ACL", "SETUSER", "own", "on", f">{CANARY}", "+@all", "~*", "&*")
    own_scene.raw.execute_command("CONFIG", "SET", "maxmemory", "1")
    told = await ring(**own_scene.environment, SETTLE_MODE=mode, REDIS_USERNAME="own")
    assert "out of memory" in told


async def test_right_to_keys_that_is_missing(payload: Scene, ring: Ring, mode: str) -> None:
    payload.raw.execute_command("ACL", "SETUSER", payload.stream, "resetkeys", f"~{payload.stream}", "~*index")
    assert "NOPERM" in await ring(SETTLE_MODE=mode)


# --- login, TLS, connection -------------------------------------------------------------------------------------------------


async def test_wrong_password(ring: Ring) -> None:
    assert "refused the login" in await ring(REDIS_PASSWORD=f"wrong-{CANARY}")


async def test_tls_failures(ring: Ring, server: RedisServer, tmp_path: Path) -> None:
    authority, ca_file = trustme.CA(organization_name=CANARY), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    for names in (["another.example"], ["127.0.0.1"]):
        async with Passage(server.port, server_side(authority, *names)) as front:
            changes = {**front.environment, "REDIS_TLS_CA_FILE": str(ca_file) if names != ["127.0.0.1"] else ""}
            assert "certificate was refused" in await ring(**changes)


async def test_ca_file_that_holds_no_certificate(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CANARY)
    assert await ring(REDIS_TLS="true", REDIS_TLS_CA_FILE=str(tmp_path / "ca.pem"), SWEEP_BUDGET_SEC="0.3")


@pytest.mark.parametrize("make", [lambda port: BlackHole(), lambda port: HangUp(), lambda port: SilentAfter(port, 400)])
async def test_connection_that_breaks(
    payload: Scene, ring: Ring, server: RedisServer, make: Callable[[int], Front], mode: str
) -> None:
    async with make(server.port) as front:
        assert "Redis" in await ring(**front.environment, SETTLE_MODE=mode, SWEEP_BUDGET_SEC="0.4")


async def test_reply_that_is_no_redis_protocol(ring: Ring) -> None:
    """Somebody's web server, that repeats what it was sent."""

    class Echo(Front):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + data)

    async with Echo() as front:
        assert await ring(**front.environment, SWEEP_BUDGET_SEC="0.4")


# --- settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*DEFAULTS, "REDIS_DB", "REDIS_SENTINEL"])
async def test_settings_errors_quote_no_value(ring: Ring, name: str) -> None:
    """Somebody may paste a connection string into any of them."""
    pasted = f"rediss://user:{CANARY}@host:6380/0"
    if name in ("REDIS_PASSWORD", "REDIS_USERNAME", "STREAM_NAME", "STREAM_CONSUMER_GROUP_NAME", "HASH_PREFIX"):
        return  # any text is good there, and names are told
    with_bad = {name: pasted, "PAGE_SIZE": "0"} if name != "PAGE_SIZE" else {name: pasted}
    assert "settings: " in await ring(**with_bad)


def test_settings_hide_the_password_in_their_repr(scene: Scene) -> None:
    settings: Settings = scene.settings(REDIS_PASSWORD=CANARY)
    assert CANARY not in f"{settings!r} {settings}"


# --- control ----------------------------------------------------------------------------------------------------------------


def test_canary_would_be_found(everything: Everything) -> None:
    logging.getLogger("redis").debug("sent %s", b"kanarie")
    try:
        try:
            raise ValueError("kanarie in the context")
        except ValueError as error:
            raise JanitorError("fine") from error
    except JanitorError as error:
        everything.take_error(error)
    told = str(everything)
    assert "sent b'kanarie'" in told
    assert "kanarie in the context" in told
