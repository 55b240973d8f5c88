"""Throw-away PostgreSQL and MariaDB servers from the system's packages: a folder, a port and a process of their own each."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

START_LIMIT_S = 120.0
PASSWORD = "kanarie-7Qx"
"""Of the MariaDB user; so that a test sees it wherever it is printed."""


class Database:
    """A running server; ``url`` leads to an empty database in it."""

    def __init__(self, command: list[str], url: str, folder: Path) -> None:
        self._command, self.url, self._folder = command, url, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers."""
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                user=_unprivileged(),
                env=_environment(self._folder),
            )
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        deadline_s = time.monotonic() + START_LIMIT_S
        while True:
            try:
                engine.connect().close()
                return
            except sa.exc.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise AssertionError((self._folder / "log").read_text()[-3000:]) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def postgresql() -> Iterator[Database]:
    initdb, server = _program("initdb", "/usr/lib/postgresql/*/bin"), _program("postgres", "/usr/lib/postgresql/*/bin")
    with _folder() as folder:
        data = folder / "data"
        _run(folder, initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        port = _free_port()
        options = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off")
        command = [server, "-D", str(data), "-p", str(port), *(part for option in options for part in ("-c", option))]
        yield from _running(Database(command, f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres", folder))


@contextlib.contextmanager
def mariadb() -> Iterator[Database]:
    install, server = _program("mariadb-install-db", "/usr/bin"), _program("mariadbd", "/usr/sbin")
    with _folder() as folder:
        data = folder / "data"
        _run(
            folder,
            install,
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        (folder / "init.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS janitor CHARACTER SET utf8mb4;\n"
            f"CREATE USER IF NOT EXISTS janitor@'%' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON janitor.* TO janitor@'%';\n"
        )
        port = _free_port()
        command = [
            server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve",
            f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--init-file={folder}/init.sql",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--sql-mode=",
        ]  # fmt: skip
        yield from _running(Database(command, f"mariadb+pymysql://janitor:{PASSWORD}@127.0.0.1:{port}/janitor", folder))


def _running(database: Database) -> Iterator[Database]:
    database.start()
    try:
        yield database
    finally:
        database.kill()


DATABASES: dict[str, Callable[[], contextlib.AbstractContextManager[Database]]] = {
    "postgresql": postgresql,
    "mariadb": mariadb,
}


def _program(name: str, folders: str) -> str:
    found = [shutil.which(name) or "", *(str(path / name) for path in Path("/").glob(folders[1:]))]
    for program in filter(None, found):
        if Path(program).exists():
            return program
    pytest.skip(f"there is no {name} on this machine (Debian: apt-get install postgresql mariadb-server)")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """One that a user without rights may use: these servers refuse to run as root."""
    with tempfile.TemporaryDirectory(prefix="janitor-db-", dir="/tmp", ignore_cleanup_errors=True) as name:
        user = _unprivileged()
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


def _unprivileged() -> str | None:
    return "nobody" if os.geteuid() == 0 else None


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "LC_ALL": "C"}


def _run(folder: Path, *command: str) -> None:
    run = subprocess.run(
        command, cwd=folder, user=_unprivileged(), env=_environment(folder), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
