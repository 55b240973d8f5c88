"""The server for machines that have none: it says where it is, never outlives its starter, and asks nobody else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import demo.redis
from demo.examples import TWEETS
from demo.outside import clean, outside_server
from demo.redis import NoServer, PortTaken, RedisServer, ServerFailed, find_server

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "demo.redis"]


def wait_until(holds: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_gone(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
            client.ping()
    except redis.ConnectionError:
        return True
    return False


def start_program(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_port(program: subprocess.Popen[str]) -> int:
    """The port in the two lines that the program prints once its server answers."""
    assert program.stdout is not None
    host, tls = program.stdout.readline().strip(), program.stdout.readline().strip()
    assert host.startswith("REDIS_HOST=127.0.0.1:")
    assert tls == "REDIS_TLS=false"
    return int(host.rpartition(":")[2])


def test_the_server_can_search() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        client.execute_command("FT.CREATE", "i", "ON", "HASH", "PREFIX", 1, "p:", "SCHEMA", "t", "TEXT")
        client.hset("p:1", "t", "hello world")
        assert client.execute_command("FT.SEARCH", "i", "hello", "LIMIT", 0, 0) == [1]


def test_a_killed_server_comes_back_on_its_port() -> None:
    with RedisServer(search=False) as server:
        port, pid = server.port, server.pid
        server.kill()
        assert is_gone(port)
        server.start()
        assert (server.port, server.pid != pid) == (port, True)
        assert not is_gone(port)


def test_data_outlives_a_restart_if_the_arguments_ask_for_that() -> None:
    arguments = ("--appendonly", "yes", "--appendfsync", "always")
    with RedisServer(search=False, arguments=arguments) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.restart()
        assert client.get("key") == b"value"


def test_two_servers_share_neither_port_nor_folder(server: RedisServer) -> None:
    with RedisServer(search=False) as other:
        assert other.port != server.port
        assert other.folder != server.folder


def test_a_stopped_server_leaves_no_folder() -> None:
    with RedisServer(search=False) as server:
        folder = server.folder
        assert "Ready to accept connections" in server.log_text()
    assert not folder.exists()


def test_a_taken_port_is_refused(server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PortTaken, match=f"port {server.port} is taken"):
        RedisServer(search=False, port=server.port).start()
    assert list(tmp_path.iterdir()) == []
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_bad_argument_is_told_in_the_servers_own_words() -> None:
    with pytest.raises(ServerFailed, match="no-such-setting"):
        RedisServer(search=False, arguments=("--no-such-setting", "1")).start()


def test_program_exits_non_zero_if_the_port_is_taken(server: RedisServer) -> None:
    with start_program("--port", str(server.port)) as program:
        stdout, stderr = program.communicate(timeout=30)
    assert program.returncode != 0
    assert stdout == ""
    assert f"port {server.port} is taken" in stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_program_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    with start_program() as program:
        port = read_port(program)
        program.send_signal(number)
        program.communicate(timeout=30)
    assert program.returncode == 0
    assert is_gone(port)


def test_program_never_reads_redis_variables_of_the_surroundings() -> None:
    elsewhere = {"REDIS_HOST": "production.invalid:6380", "REDIS_PASSWORD": "secret", "REDIS_TLS": "true"}
    with start_program(**elsewhere) as program:
        port = read_port(program)
        try:
            assert not is_gone(port)  # and without a password
        finally:
            program.terminate()
        program.communicate(timeout=30)


def test_server_is_gone_when_the_program_is_killed() -> None:
    with start_program() as program:
        port = read_port(program)
        with redis.Redis(port=port) as client:
            folder = Path(str(client.config_get("dir")["dir"]))
        program.kill()
        program.communicate(timeout=30)
    assert wait_until(lambda: is_gone(port))
    assert wait_until(lambda: not folder.exists())


def test_program_and_server_are_gone_when_their_parent_is_killed() -> None:
    script = f"import subprocess; subprocess.run({COMMAND!r})"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        port = read_port(parent)
        assert not is_gone(port)
        parent.kill()
    assert wait_until(lambda: is_gone(port))


def test_without_any_server_the_message_names_the_docker_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.redis, "_packaged_executable", lambda: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NoServer, match=r"docker run .*-p 6379:6379 redis:8") as caught:
        find_server()
    assert "DEMO_REDIS_URL=redis://127.0.0.1:6379 make demo" in str(caught.value)


def test_a_server_on_path_that_cannot_search_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = find_server(search=False).executable
    (tmp_path / "redis-server").symlink_to(plain)
    monkeypatch.setattr(demo.redis, "_packaged_executable", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServer):
        find_server()


def test_a_server_on_path_with_its_module_beside_it_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packaged = find_server()
    assert packaged.module is not None
    program, module = tmp_path / "bin" / "redis-server", tmp_path / "lib" / "redis" / "modules" / "redisearch.so"
    for source, target in ((packaged.executable, program), (packaged.module, module)):
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    monkeypatch.setattr(demo.redis, "_packaged_executable", lambda: None)
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_server() == demo.redis.ServerFiles(program, module)


def test_an_outside_server_is_used_only_if_it_is_empty() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        assert outside_server(server.url).environment == server.environment
        client.set("somebody's", "data")
        with pytest.raises(NoServer, match="not empty"):
            outside_server(server.url)
        client.delete("somebody's")
        client.execute_command("FT.CREATE", "theirs", "SCHEMA", "t", "TEXT")
        with pytest.raises(NoServer, match="not empty"):
            outside_server(server.url)


def test_an_outside_server_is_left_as_empty_as_it_was() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        outside = outside_server(server.url)
        client.xadd("tweets_stream", {"id": "1"})
        client.hset("tweet:1", "id", "1")
        client.execute_command("FT.CREATE", "tweets-index", "PREFIX", 1, "tweet:", "SCHEMA", "id", "TEXT")
        client.xadd("tweets_stream:dead", {"id": ""})
        clean(outside, TWEETS.stream)
        assert outside_server(server.url) == outside


def test_an_outside_server_without_search_is_refused() -> None:
    with RedisServer(search=False) as server, pytest.raises(NoServer, match="cannot search"):
        outside_server(server.url)


@pytest.mark.parametrize(
    "url", ["redis://:s3cret@127.0.0.1:1", "127.0.0.1:6379", "redis://:s3cret@h:x", "redis://:s3cret@h/3"]
)
def test_an_outside_server_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(NoServer, match="DEMO_REDIS_URL") as caught:
        outside_server(url)
    assert "s3cret" not in str(caught.value)


def test_an_outside_servers_login_becomes_app_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.outside.refuse_unless_usable", lambda client: None)
    outside = outside_server("rediss://me:p%40ss@example.com:10000")
    assert outside.address == "example.com:10000"
    assert outside.environment == {
        "REDIS_HOST": "example.com:10000",
        "REDIS_TLS": "true",
        "REDIS_USERNAME": "me",
        "REDIS_PASSWORD": "p@ss",
    }
