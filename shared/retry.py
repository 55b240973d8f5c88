"""What a Redis error means for us, and the one layer of retries: tenacity, full jitter, bounded by a deadline."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from redis import exceptions as redis_errors

from shared.errors import JanitorError, RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from tenacity import RetryCallState

Result = TypeVar("Result")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0


class Fault(Enum):
    """Whose fault an error is, and so what to do next."""

    AGAIN = "try again: the same command may work in a moment"
    RECONNECT = "try again on new connections: these lead to a server that is no longer the right one"
    GIVE_UP = "end the sweep: every other command would meet it too, and only an operator can change it"
    ENTRY = "the entry's own fault: go on with the others"


FAULTS: dict[str, Fault] = {
    # out of reach, or not ready yet
    "CONNECTION": Fault.AGAIN,
    "TIMEOUT": Fault.AGAIN,
    "LOADING": Fault.AGAIN,
    "BUSY": Fault.AGAIN,
    "TRYAGAIN": Fault.AGAIN,
    "CLUSTERDOWN": Fault.AGAIN,
    "MASTERDOWN": Fault.AGAIN,
    "UNBLOCKED": Fault.AGAIN,
    "NOSCRIPT": Fault.AGAIN,  # flushed again between its loading and its run; nothing ran
    # a primary that was demoted answers READONLY on connections that still lead to it
    "READONLY": Fault.RECONNECT,
    # the server's state or our rights: repeating changes nothing
    "OOM": Fault.GIVE_UP,
    "MISCONF": Fault.GIVE_UP,
    "NOREPLICAS": Fault.GIVE_UP,
    "NOPERM": Fault.GIVE_UP,
    "NOAUTH": Fault.GIVE_UP,
    "WRONGPASS": Fault.GIVE_UP,
    "NOGROUP": Fault.GIVE_UP,
    "CROSSSLOT": Fault.GIVE_UP,
    "MOVED": Fault.GIVE_UP,
    "ASK": Fault.GIVE_UP,
    "TLS": Fault.GIVE_UP,
    "NOCOMMAND": Fault.GIVE_UP,
    # what a single entry can bring about
    "WRONGTYPE": Fault.ENTRY,
}
"""Anything that is not named here is the entry's own, unknown error where an entry was being written, and ends the sweep
where not (see ``is_entrys_own``)."""


def code_of(error: BaseException) -> str:
    """The first word of Redis's error reply, such as ``OOM``; ``CONNECTION``, ``TIMEOUT`` or ``TLS`` where none came.

    redis-py takes the word off the errors it has a class for and keeps it as ``status_code``.
    """
    status = getattr(error, "status_code", None)
    if status and status != "ERR":
        return str(status)
    if isinstance(error, redis_errors.AuthenticationError):
        return "NOAUTH"
    if isinstance(error, redis_errors.ConnectionError):
        return "TLS" if _is_tls(error) else "CONNECTION"
    if isinstance(error, redis_errors.TimeoutError):
        return "TIMEOUT"
    if "ACL failure in script" in str(error):
        return "NOPERM"  # what a script calls is checked against the caller's rights, with words of its own
    if "Existing key has wrong Redis type" in str(error):
        return "WRONGTYPE"  # RedisJSON's words for it
    if "unknown command" in str(error) or "nknown Redis command" in str(error):
        return "NOCOMMAND"  # renamed or disabled on this server: no entry can be at fault
    word = str(error).split(" ", 1)[0].lstrip("-")
    return word if word.isascii() and word.isupper() and word.isalpha() else "ERR"


def _is_tls(error: BaseException) -> bool:
    import ssl

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        seen = seen.__cause__ or seen.__context__
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def fault_of(error: BaseException) -> Fault:
    """What ``error`` asks for; an error that the table does not name ends the sweep."""
    return FAULTS.get(code_of(error), Fault.GIVE_UP)


def is_worth_repeating(error: BaseException) -> bool:
    return fault_of(error) in (Fault.AGAIN, Fault.RECONNECT)


_STATES_OF_A_SERVER = frozenset(("OOM", "MISCONF", "NOREPLICAS"))


def is_one_servers(code: str) -> bool:
    """Whether an error with this code tells of one server's state, which the others of its cluster need not share."""
    return code in _STATES_OF_A_SERVER or FAULTS.get(code) in (Fault.AGAIN, Fault.RECONNECT)


def is_entrys_own(code: str) -> bool:
    """Whether an error with this code, met while writing one entry, is that entry's own fault."""
    return FAULTS.get(code, Fault.ENTRY) is Fault.ENTRY


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time by this machine's monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def left_s(self) -> float:
        return self.at_s - time.monotonic()

    def is_over(self) -> bool:
        return self.left_s() <= 0


async def persist(
    attempt: Callable[[], Awaitable[Result]], deadline: Deadline, reconnect: Callable[[], Awaitable[None]]
) -> Result:
    """Repeat ``attempt`` while its error says that it may work in a moment, until ``deadline``; then let the error through.

    Only for what is safe to repeat. Full jitter, so that several janitors do not come back in step.
    """

    async def before_next(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None and fault_of(error) is Fault.RECONNECT:
            await reconnect()

    try:
        return await attempt()  # the usual case, thousands of times a sweep, pays for nothing below
    except Exception as error:
        if not is_worth_repeating(error):
            raise
        failure: BaseException | None = error
    # Imported here: a cold start pays for imports, and most never get this far.
    from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

    async def once() -> Result:
        nonlocal failure
        if failure is not None:  # tenacity's first attempt is the one above
            first_failure, failure = failure, None
            raise first_failure
        return await attempt()

    return await AsyncRetrying(
        retry=retry_if_exception(is_worth_repeating),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        stop=lambda state: deadline.left_s() <= state.upcoming_sleep,
        before_sleep=before_next,
        reraise=True,
    )(once)


_WHAT_TO_DO = {
    "OOM": "Redis is out of memory: raise maxmemory or free some",
    "MISCONF": "Redis refuses writes since it cannot save to disk (MISCONF): see its log",
    "NOREPLICAS": "Redis refuses writes since too few replicas are in touch (NOREPLICAS)",
    "READONLY": "REDIS_HOST leads to a read-only replica (READONLY): name the primary",
    "NOAUTH": "Redis wants a login: set REDIS_PASSWORD (and REDIS_USERNAME if it is an ACL user)",
    "WRONGPASS": "Redis refused the login: check REDIS_USERNAME and REDIS_PASSWORD",
    "CONNECTION": "no connection to Redis: check REDIS_HOST, REDIS_TLS and the firewall",
    "TIMEOUT": "Redis does not answer in time: check REDIS_HOST, REDIS_TLS and the load on the server",
    "TLS": "the server's certificate was refused: check the name in REDIS_HOST; for a private CA set REDIS_TLS_CA_FILE",
    "LOADING": "Redis is still loading its data (LOADING)",
    "BUSY": "Redis is busy running a script (BUSY): SCRIPT KILL ends one that has not written",
    "CLUSTERDOWN": "the cluster is down, as some slots have no primary (CLUSTERDOWN): see CLUSTER NODES",
    "MOVED": "this is a Redis Cluster, whose keys lie on several servers: set REDIS_CLUSTER=true",
}
_RIGHT_IN_TEXT = re.compile(r"run the '([a-z|._-]{1,40})' command", re.IGNORECASE)
_OUT_OF_REACH = ("CONNECTION", "TIMEOUT", "LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN")


def explained(error: BaseException, doing: str) -> JanitorError:
    """``error`` as one of ours: what it was met at, its code, and what to do; nothing of its own text, which may quote data."""
    code = code_of(error)
    kind = RedisUnavailable if code in _OUT_OF_REACH else RedisRefused
    advice = _WHAT_TO_DO.get(code)
    if code == "NOPERM":
        advice = f"the Redis user lacks {missing_right(error)} (NOPERM): see the ACL lines in the README"
    return kind(f"{advice or f'Redis answered {code}'} (while at {doing})")


def missing_right(error: BaseException) -> str:
    """The command that NOPERM names, as an ACL rule; its text for keys and channels names them, so that stays out."""
    command = _RIGHT_IN_TEXT.search(str(error))
    return f"the right +{command[1].lower()}" if command else "the right to a key that is needed"
