"""TLS for real: a front with a throw-away CA ends TLS before the real server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from demo.redis import RedisServer
from monitor.janitor import raise_for
from monitor.report import SweepReport
from shared.errors import SettingsError, TickFailed
from shared.settings import Settings
from tests.conftest import Scene, Sweeper, sum_of_outcomes
from tests.fronts import Front, Passage
from tests.patience import in_time

PASSWORD = "canary-password"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="canary-organization")


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """The CA's certificate, as REDIS_TLS_CA_FILE names it."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_side(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """What the front shows: a certificate for ``names``, signed by ``authority``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def stuck(scene: Scene) -> Iterator[Scene]:
    scene.add_tweets(2)
    scene.abandon()
    scene.environment |= {"INDEX_SCHEMA": "off", "SWEEP_BUDGET_SEC": "2"}
    scene.raw.execute_command("ACL", "SETUSER", scene.stream, "on", f">{PASSWORD}", "+@all", "~*", "&*")
    scene.environment |= {"REDIS_USERNAME": scene.stream, "REDIS_PASSWORD": PASSWORD}
    yield scene
    scene.raw.execute_command("ACL", "DELUSER", scene.stream)


def settings(stuck: Scene, front: Front, **changes: str) -> Settings:
    return stuck.settings(**{**front.environment, "REDIS_TLS": "true", **changes})


async def told(stuck: Scene, sweep: Sweeper, settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    """What a tick that cannot connect tells, once it is sure that nothing happened and nothing leaked."""
    caplog.set_level(1)
    reports = await sweep.janitor(settings).tick()
    with pytest.raises(TickFailed) as raised:
        raise_for(reports)
    assert stuck.pending() == 2
    assert stuck.hashes() == []
    printed = "\n".join([str(raised.value), caplog.text, *(repr(vars(record)) for record in caplog.records)])
    for secret in (PASSWORD, "canary-organization", "BEGIN CERTIFICATE"):
        assert secret not in printed
    return str(raised.value)


async def succeeded(sweep: Sweeper, settings: Settings) -> SweepReport:
    (report,) = await sweep.janitor(settings).tick()
    assert report.error is None
    assert report.candidates == sum_of_outcomes(report)
    return report


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_right_ca_connects_by_address_and_by_name(
    stuck: Scene, sweep: Sweeper, server: RedisServer, authority: trustme.CA, ca_file: str, host: str
) -> None:
    async with Passage(server.port, server_side(authority, "localhost", "127.0.0.1")) as front:
        changes = {"REDIS_TLS_CA_FILE": ca_file, "REDIS_HOST": f"{host}:{front.port}"}
        report = await succeeded(sweep, settings(stuck, front, **changes))
    assert (report.processed, stuck.pending()) == (2, 0)


async def test_tls_is_the_default(
    stuck: Scene, sweep: Sweeper, server: RedisServer, authority: trustme.CA, ca_file: str
) -> None:
    async with Passage(server.port, server_side(authority, "127.0.0.1")) as front:
        changes = {"REDIS_TLS_CA_FILE": ca_file, "REDIS_TLS": ""}
        assert (await succeeded(sweep, settings(stuck, front, **changes))).processed == 2


async def test_certificate_for_another_host_is_refused(
    stuck: Scene,
    sweep: Sweeper,
    server: RedisServer,
    authority: trustme.CA,
    ca_file: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Passage(server.port, server_side(authority, "another.example")) as front:
        message = await told(stuck, sweep, settings(stuck, front, REDIS_TLS_CA_FILE=ca_file), caplog)
    assert "the server's certificate was refused" in message
    assert "check the name in REDIS_HOST" in message


async def test_unknown_ca_is_refused(
    stuck: Scene,
    sweep: Sweeper,
    server: RedisServer,
    ca_file: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Passage(server.port, server_side(trustme.CA(), "127.0.0.1")) as front:
        message = await told(stuck, sweep, settings(stuck, front, REDIS_TLS_CA_FILE=ca_file), caplog)
    assert "the server's certificate was refused" in message
    assert "REDIS_TLS_CA_FILE" in message


async def test_private_ca_is_refused_unless_it_is_named(
    stuck: Scene,
    sweep: Sweeper,
    server: RedisServer,
    authority: trustme.CA,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Passage(server.port, server_side(authority, "127.0.0.1")) as front:
        message = await told(stuck, sweep, settings(stuck, front), caplog)
    assert "for a private CA set REDIS_TLS_CA_FILE" in message


async def test_refused_certificate_is_not_tried_again(
    stuck: Scene, sweep: Sweeper, server: RedisServer, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    async with Passage(server.port, server_side(authority, "127.0.0.1")) as front:
        await told(stuck, sweep, settings(stuck, front, SWEEP_BUDGET_SEC="10"), caplog)
        # The handshake fails before the front sees a connection.
        assert front.accepted == 0
    (record,) = [record for record in caplog.records if hasattr(record, "report")]
    assert vars(record)["report"]["duration_s"] < in_time(2)


async def test_tls_to_a_plain_port_says_what_to_check(
    stuck: Scene, sweep: Sweeper, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Passage(server.port) as front:
        message = await told(stuck, sweep, settings(stuck, front), caplog)
    assert "REDIS_TLS" in message


async def test_plain_to_a_tls_port_says_what_to_check(
    stuck: Scene, sweep: Sweeper, server: RedisServer, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    async with Passage(server.port, server_side(authority, "127.0.0.1")) as front:
        message = await told(stuck, sweep, settings(stuck, front, REDIS_TLS="false"), caplog)
    assert "REDIS_TLS" in message


async def test_tls_1_1_is_refused(
    stuck: Scene,
    sweep: Sweeper,
    server: RedisServer,
    authority: trustme.CA,
    ca_file: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Passage(server.port, old_tls(authority)) as front:
        message = await told(stuck, sweep, settings(stuck, front, REDIS_TLS_CA_FILE=ca_file), caplog)
    assert "REDIS_TLS" in message


async def test_tls_1_1_of_this_front_is_what_the_test_above_met(authority: trustme.CA, server: RedisServer) -> None:
    """Control: a client that allows TLS 1.1 does connect."""
    async with Passage(server.port, old_tls(authority)) as front:
        try:
            version = await asyncio.to_thread(version_spoken, authority, front.port)
        except ssl.SSLError:
            pytest.skip("this OpenSSL cannot speak TLS 1.1 at all")
    assert version == "TLSv1.1"


def version_spoken(authority: trustme.CA, port: int) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    allow_tls_1_1(context)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return connection.version()


def old_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = server_side(authority, "127.0.0.1")
    allow_tls_1_1(context)
    return context


def allow_tls_1_1(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1


async def test_no_setting_turns_verification_off(stuck: Scene) -> None:
    for name in ("REDIS_TLS_VERIFY", "REDIS_SSL_CERT_REQS"):
        with pytest.raises(SettingsError, match=f"{name}: certificates are always verified"):
            stuck.settings(**{name: "none"})
