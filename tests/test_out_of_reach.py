"""Redis out of reach, in every way that we could think of: a clear error, within the budget, nothing lost, and works again."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import redis

from demo.redis import RedisServer
from monitor.janitor import Janitor, raise_for
from monitor.report import SweepReport
from shared.errors import TickFailed
from tests.conftest import Scene, Sweeper, new_scene, raw_client, sum_of_outcomes
from tests.fronts import BlackHole, Front, HangUp, Judging, Passage, SilentAfter, Slow
from tests.patience import in_time

BUDGET_S = 1.0
SLACK_S = 1.0


@dataclass(frozen=True)
class Ended:
    """How one tick ended."""

    report: SweepReport
    took_s: float
    error: TickFailed | None


async def tick(janitor: Janitor) -> Ended:
    began_s = time.monotonic()
    reports = await janitor.tick()
    took_s = time.monotonic() - began_s
    (report,) = reports
    assert report.candidates == sum_of_outcomes(report), report
    assert took_s <= janitor.settings.budget_s + in_time(SLACK_S), report
    try:
        raise_for(reports)
    except TickFailed as error:
        return Ended(report, took_s, error)
    return Ended(report, took_s, None)


async def failed_tick(janitor: Janitor) -> str:
    """What a tick that has to fail tells the operator."""
    ended = await tick(janitor)
    assert ended.error is not None, ended.report
    assert not ended.report.complete
    assert str(ended.report.error) in str(ended.error)
    return str(ended.error)


def nobody_listens() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def stuck(scene: Scene) -> Scene:
    """Three tweets that were left behind."""
    scene.add_tweets(3)
    scene.abandon()
    return scene


def here(front: Front | None = None, **changes: str) -> dict[str, str]:
    environment = front.environment if front else {}
    return {**environment, "SWEEP_BUDGET_SEC": str(BUDGET_S), "INDEX_SCHEMA": "off", **changes}


# --- no connection ----------------------------------------------------------------------------------------------------------


async def test_refused_connection_says_what_to_check(stuck: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(stuck.settings(**here(REDIS_HOST=f"127.0.0.1:{nobody_listens()}")))
    message = await failed_tick(janitor)
    assert "no connection to Redis" in message
    assert "REDIS_HOST" in message
    assert stuck.pending() == 3


async def test_unknown_host_name_says_what_to_check(stuck: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(stuck.settings(**here(REDIS_HOST="no-such-host.invalid")))
    message = await failed_tick(janitor)
    assert "no connection to Redis" in message
    assert "REDIS_HOST" in message


async def test_black_hole_costs_no_more_than_the_budget(stuck: Scene, sweep: Sweeper) -> None:
    async with BlackHole() as hole:
        message = await failed_tick(sweep.janitor(stuck.settings(**here(hole))))
    assert "does not answer in time" in message
    assert "REDIS_HOST" in message
    assert stuck.pending() == 3


async def test_server_that_hangs_up_says_what_to_check(stuck: Scene, sweep: Sweeper) -> None:
    async with HangUp() as front:
        message = await failed_tick(sweep.janitor(stuck.settings(**here(front))))
    assert "no connection to Redis" in message


async def test_tick_that_failed_still_logged_its_report(
    stuck: Scene, sweep: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="monitor")
    async with HangUp() as front:
        await failed_tick(sweep.janitor(stuck.settings(**here(front))))
    (record,) = [record for record in caplog.records if hasattr(record, "report")]
    assert record.levelno >= logging.INFO
    assert "error: no connection to Redis" in record.getMessage()


async def test_same_janitor_works_again_once_redis_is_back(sweep: Sweeper) -> None:
    with RedisServer(search=False) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment)
        janitor = sweep.janitor(scene.settings(**here()))
        assert (await tick(janitor)).error is None
        server.kill()
        assert "no connection to Redis" in await failed_tick(janitor)
        server.start()
        client.execute_command("XGROUP", "CREATE", scene.stream, scene.group, "0", "MKSTREAM")
        scene.add_tweets(3)
        scene.abandon()
        ended = await tick(janitor)
        assert (ended.error, ended.report.processed, scene.pending()) == (None, 3, 0)
        client.close()


# --- silence midway ---------------------------------------------------------------------------------------------------------


async def replies_of_a_sweep(scene: Scene, sweep: Sweeper, port: int, mode: str) -> int:
    """How many bytes of replies a sweep over a scene like this one takes."""

    class Counting(Passage):
        count = 0

        async def carry_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                self.count += len(data)
                writer.write(data)

    async with Counting(port) as front:
        scene.add_tweets(3)
        scene.abandon()
        assert (await tick(sweep.janitor(scene.settings(**here(front, SETTLE_MODE=mode))))).error is None
    return front.count


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
async def test_server_that_falls_silent_midway_costs_no_more_than_the_budget_and_loses_nothing(
    scene: Scene, sweep: Sweeper, server: RedisServer, mode: str, share: float
) -> None:
    await replies_of_a_sweep(scene, sweep, server.port, mode)  # from here on the server has the scripts
    count = await replies_of_a_sweep(scene, sweep, server.port, mode)
    scene.add_tweets(3, first=10)
    scene.abandon()
    changes = here(SWEEP_BUDGET_SEC="0.4", SETTLE_MODE=mode, MIN_IDLE_TIME_SEC="0")
    async with SilentAfter(server.port, int(share * count)) as front:
        janitor = sweep.janitor(scene.settings(**{**changes, **front.environment}))
        assert "Redis" in await failed_tick(janitor)
        acknowledged = 3 - scene.pending()
        stored = sum(bool(scene.hash(number)) for number in range(10, 13))
        assert stored >= acknowledged
        front.left_bytes = 1_000_000
        ended = await tick(janitor)
    assert (ended.error, scene.pending()) == (None, 0)
    assert all(scene.hash(number)[b"id"] == b"%d" % number for number in range(10, 13))


async def test_latency_within_the_budget_is_only_slow(
    stuck: Scene, sweep: Sweeper, server: RedisServer, mode: str
) -> None:
    async with Slow(server.port, 0.05) as front:
        changes = here(front, SWEEP_BUDGET_SEC="5", SETTLE_MODE=mode)
        ended = await tick(sweep.janitor(stuck.settings(**changes)))
    assert (ended.error, ended.report.processed, stuck.pending()) == (None, 3, 0)


async def test_latency_above_the_budget_ends_in_time_and_loses_nothing(
    stuck: Scene, sweep: Sweeper, server: RedisServer, mode: str
) -> None:
    async with Slow(server.port, 2.0) as front:
        message = await failed_tick(sweep.janitor(stuck.settings(**here(front, SETTLE_MODE=mode))))
        assert "does not answer in time" in message
        front.latency_s = 0
        janitor = sweep.janitor(stuck.settings(**here(front, SETTLE_MODE=mode, MIN_IDLE_TIME_SEC="0")))
        assert (await tick(janitor)).error is None
    assert stuck.pending() == 0
    assert all(stuck.hash(number) for number in range(3))


async def test_server_killed_midway_loses_nothing_that_it_kept(sweep: Sweeper, mode: str) -> None:
    """AOF with fsync at every write: what was acknowledged is on disk, and so is its hash, which was written before."""
    with RedisServer(search=False, arguments=("--appendonly", "yes", "--appendfsync", "always")) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment)
        scene.add_tweets(20)
        scene.abandon()

        killed = []

        def dies_at_the_first_write(command: list[bytes]) -> None:
            is_write = command[0] == b"HSET" or (command[0] == b"EVALSHA" and len(command) > 8)  # not the probe
            if is_write and not killed:
                killed.append(command[0])
                server.kill()

        async with Judging(server.port, dies_at_the_first_write) as front:
            janitor = sweep.janitor(scene.settings(**here(front, SETTLE_MODE=mode, MIN_IDLE_TIME_SEC="0")))
            assert "Redis" in await failed_tick(janitor)
            assert not server.running
            server.start()
            pending = {int(scene.raw.xrange(scene.stream, row[0], row[0])[0][1][1]) for row in scene.pending_rows()}
            lost = [number for number in range(20) if number not in pending and not scene.hash(number)]
            assert not lost
            assert (await tick(janitor)).error is None
        assert (scene.pending(), len(scene.hashes())) == (0, 20)
        client.close()


# --- login ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Iterator[RedisServer]:
    """A server that wants a password."""
    with RedisServer(search=False, arguments=("--requirepass", "open sesame")) as running:
        yield running


@pytest.fixture
def locked_scene(locked: RedisServer) -> Iterator[Scene]:
    client = raw_client(locked, password="open sesame")
    scene = new_scene(client, locked.environment)
    scene.add_tweets(1)
    scene.abandon()
    yield scene
    client.close()


async def test_wrong_password_says_which_settings_to_check(locked_scene: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(locked_scene.settings(**here(REDIS_PASSWORD="wrong-canary")))
    message = await failed_tick(janitor)
    assert "REDIS_PASSWORD" in message
    assert "refused the login" in message
    assert "canary" not in message


async def test_missing_password_says_which_setting_to_set(locked_scene: Scene, sweep: Sweeper) -> None:
    message = await failed_tick(sweep.janitor(locked_scene.settings(**here())))
    assert "REDIS_PASSWORD" in message


async def test_unknown_user_says_which_settings_to_check(locked_scene: Scene, sweep: Sweeper) -> None:
    changes = here(REDIS_USERNAME="nobody", REDIS_PASSWORD="open sesame")
    assert "REDIS_USERNAME" in await failed_tick(sweep.janitor(locked_scene.settings(**changes)))


async def test_right_password_with_a_space_in_it_works(locked_scene: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(locked_scene.settings(**here(REDIS_PASSWORD="open sesame")))
    ended = await tick(janitor)
    assert (ended.error, ended.report.processed, locked_scene.pending()) == (None, 1, 0)


async def test_login_errors_are_not_retried(locked_scene: Scene, sweep: Sweeper) -> None:
    janitor = sweep.janitor(locked_scene.settings(**here(SWEEP_BUDGET_SEC="10", REDIS_PASSWORD="x")))
    assert (await tick(janitor)).took_s < in_time(2)


# --- stream and group -------------------------------------------------------------------------------------------------------


async def test_missing_group_is_named_with_the_line_that_creates_it(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("XGROUP", "DESTROY", scene.stream, scene.group)
    message = await failed_tick(sweep.janitor(scene.settings(**here())))
    assert f"{scene.group!r}" in message
    assert f"XGROUP CREATE {scene.stream} {scene.group} 0 MKSTREAM" in message


async def test_missing_stream_is_a_missing_group_and_nothing_is_made(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("DEL", scene.stream)
    message = await failed_tick(sweep.janitor(scene.settings(**here())))
    assert f"XGROUP CREATE {scene.stream}" in message
    assert scene.keys() == set()


async def test_line_in_the_message_about_a_missing_group_works(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("DEL", scene.stream)
    janitor = sweep.janitor(scene.settings(**here()))
    line = (await failed_tick(janitor)).split("create it with: ")[1]
    scene.raw.execute_command(*line.split())
    assert (await tick(janitor)).error is None


async def test_stream_that_is_a_key_of_another_type_is_named(scene: Scene, sweep: Sweeper) -> None:
    scene.raw.execute_command("DEL", scene.stream)
    scene.raw.execute_command("SET", scene.stream, "canary")
    message = await failed_tick(sweep.janitor(scene.settings(**here())))
    assert f"STREAM_NAME {scene.stream!r}" in message
    assert "not a stream" in message


# --- the server refuses -----------------------------------------------------------------------------------------------------


def full(client: redis.Redis) -> None:
    client.execute_command("CONFIG", "SET", "maxmemory", "1")


def read_only(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", str(nobody_listens()))


def too_few_replicas(client: redis.Redis) -> None:
    client.execute_command("CONFIG", "SET", "min-replicas-to-write", "1")


def well(client: redis.Redis) -> None:
    client.execute_command("CONFIG", "SET", "maxmemory", "0")
    client.execute_command("CONFIG", "SET", "min-replicas-to-write", "0")
    client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("trouble", "told"), [(full, "maxmemory"), (read_only, "READONLY"), (too_few_replicas, "NOREPLICAS")]
)
async def test_server_that_refuses_writes_fails_the_tick_and_loses_nothing(
    sweep: Sweeper, mode: str, trouble: Callable[[redis.Redis], None], told: str
) -> None:
    with RedisServer(search=False) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment)
        scene.add_tweets(3)
        scene.abandon()
        trouble(client)
        # Gather claims before it meets the refusal, so the entries are young for a while.
        janitor = sweep.janitor(scene.settings(**here(SETTLE_MODE=mode, MIN_IDLE_TIME_SEC="0")))
        assert told in await failed_tick(janitor)
        assert (scene.pending(), scene.hashes()) == (3, [])
        assert {row[3] for row in scene.pending_rows()} == {1}
        well(client)
        assert (await tick(janitor)).error is None
        assert (scene.pending(), len(scene.hashes())) == (0, 3)
        client.close()


async def test_script_that_blocks_the_server_fails_the_tick_and_loses_nothing(sweep: Sweeper) -> None:
    with RedisServer(search=False, arguments=("--busy-reply-threshold", "10")) as server:
        client = raw_client(server)
        scene = new_scene(client, server.environment)
        scene.add_tweets(3)
        scene.abandon()
        blocker = redis.Redis(port=server.port)
        blocking = asyncio.create_task(asyncio.to_thread(_run_for_ever, blocker))
        await asyncio.sleep(0.2)
        janitor = sweep.janitor(scene.settings(**here()))
        assert "BUSY" in await failed_tick(janitor)
        client.execute_command("SCRIPT", "KILL")
        await blocking
        assert (await tick(janitor)).error is None
        assert (scene.pending(), len(scene.hashes())) == (0, 3)
        client.close()


def _run_for_ever(client: redis.Redis) -> None:
    with pytest.raises(redis.RedisError):
        client.execute_command("EVAL", "while true do end", 0)
    client.close()
