"""What an operator is told of an error, code by code: what it is, and what to do about it.

Nothing of an error's own text gets through, which may quote data, but the name of a command. What the link knows beside
the text, it has noted on the error (see ``noted``): which server it was, and what is odd about the password.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from typing import Final

_TEXTS: Final = {
    "OOM": "Redis is out of memory: raise maxmemory or free some",
    "MISCONF": "Redis refuses writes since it cannot save to disk (MISCONF): see its log",
    "NOREPLICAS": "Redis refuses writes since too few replicas are in touch (NOREPLICAS)",
    "READONLY": "REDIS_HOST leads to a read-only replica (READONLY): name the primary",
    "NOAUTH": "Redis wants a login: set REDIS_PASSWORD (and REDIS_USERNAME if it is an ACL user)",
    "WRONGPASS": "Redis refused the login: check REDIS_USERNAME and REDIS_PASSWORD",
    "DENIED": "Redis takes connections from its own machine only (protected mode, DENIED): give it a password "
    "(requirepass, and REDIS_PASSWORD here), or bind it to a network that only you are in",
    "MAXCLIENTS": "Redis has as many connections as it takes (maxclients): see CLIENT LIST for who holds them, "
    "raise maxclients, or lower CONCURRENCY",
    "CONNECTION": "no connection to Redis: check REDIS_HOST, REDIS_TLS and the firewall",
    "TIMEOUT": "Redis does not answer in time: check REDIS_HOST, REDIS_TLS and the load on the server",
    "TLS": "the server's certificate was refused: check the name in REDIS_HOST; for a private CA set REDIS_TLS_CA_FILE",
    "PROTOCOL": "what answers is not Redis, or something on the way garbles it (its reply cannot be read): check "
    "REDIS_HOST and its port, REDIS_TLS and proxies",
    "TOOLARGE": "a reply of Redis is larger than is taken in (TOOLARGE)",
    "LOADING": "Redis is still loading its data (LOADING)",
    "BUSY": "Redis is busy running a script (BUSY): SCRIPT KILL ends one that has not written",
    "CLUSTERDOWN": "the cluster is down, as some slots have no primary (CLUSTERDOWN): see CLUSTER NODES",
    "MOVED": "this is a Redis Cluster, whose keys lie on several servers: set REDIS_CLUSTER=true",
}
_COMMAND: Final = re.compile(r"(?:unknown|unsupported) command [`'\"]?([a-z0-9._|-]{1,40})[`'\"]?", re.IGNORECASE)
_RIGHT_IN_TEXT: Final = re.compile(r"run the '([a-z|._-]{1,40})' command", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the link knows of an error beside its text."""

    server: str
    """host:port."""
    password_ends_in_line_break: bool = False
    others_answer: bool = False
    """Of a cluster, whose other servers may be well: the address that was given is no mistake."""


def note(error: BaseException, circumstances: Circumstances) -> None:
    """The first note stands: it is nearest to where the error happened."""
    if noted(error) is None:
        error.circumstances = circumstances  # type: ignore[attr-defined]


def noted(error: BaseException) -> Circumstances | None:
    found = getattr(error, "circumstances", None)
    return found if isinstance(found, Circumstances) else None


def note_that_others_answer(error: BaseException) -> None:
    circumstances = noted(error)
    if circumstances is not None:
        error.circumstances = replace(circumstances, others_answer=True)  # type: ignore[attr-defined]


def advice_for(code: str, error: BaseException, cause: BaseException | None) -> str:
    """What to do about ``error``, whose code is ``code``, and which ``cause`` of the system's lies under."""
    circumstances = noted(error)
    text = _text_for(code, error, cause)
    if code in ("NOAUTH", "WRONGPASS") and circumstances and circumstances.password_ends_in_line_break:
        text += "; REDIS_PASSWORD ends in a line break, which is sent as part of it: was it read from a file?"
    return text


def place_of(error: BaseException) -> str:
    """Which server ``error`` was met at, for the front of a clause; empty if it is not known."""
    circumstances = noted(error)
    return f"{circumstances.server}, " if circumstances else ""


def _text_for(code: str, error: BaseException, cause: BaseException | None) -> str:
    if code == "NOPERM":
        return f"the Redis user lacks {missing_right(error)} (NOPERM): see the ACL lines in the README"
    if code == "NOCOMMAND":
        return f"{unknown_command(error)} is unknown to this server (or to a proxy), or renamed or disabled there (NOCOMMAND)"
    if code == "READONLY" and getattr(error, "is_told_at_login", False):
        return "REDIS_HOST leads to a replica (READONLY): what is written there is lost: name the primary"
    if code == "TLSMISMATCH":
        return _mismatch(bool(getattr(error, "server_speaks_tls", False)))
    if code == "CONNECTION" and isinstance(cause, socket.gaierror):
        return _name_text(cause)
    if code == "CONNECTION" and isinstance(cause, ConnectionRefusedError):
        return "no connection to Redis: nothing listens there (refused): check REDIS_HOST, its port, and whether Redis runs"
    return _TEXTS.get(code, f"Redis answered {code}")


def _name_text(cause: socket.gaierror) -> str:
    if cause.errno == socket.EAI_AGAIN:
        return (
            "no connection to Redis: the name cannot be looked up at the moment: check the name server, and REDIS_HOST"
        )
    return "no connection to Redis: there is no host of this name: check REDIS_HOST"


def _mismatch(server_speaks_tls: bool) -> str:
    if server_speaks_tls:
        return "no connection to Redis: TLS is off, but the server speaks TLS: set REDIS_TLS=true"
    return (
        "no connection to Redis: TLS is on, but the server speaks without: use its TLS port (Azure: 6380 or 10000), "
        "or set REDIS_TLS=false for a server on this machine"
    )


def missing_right(error: BaseException) -> str:
    """The command that NOPERM names, as an ACL rule; its text for keys and channels names them, so that stays out."""
    command = _RIGHT_IN_TEXT.search(str(error))
    return f"the right +{command[1].lower()}" if command else "the right to a key that is needed"


def unknown_command(error: BaseException) -> str:
    """The command that the server does not know, where its text names it (inside a script Redis 6.2 does not)."""
    command = _COMMAND.search(str(error))
    return f"the command {command[1].upper()}" if command else "a command that is needed"
