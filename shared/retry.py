"""What a Redis error means for us, and the one layer of retries: tenacity, full jitter, bounded by a deadline."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from redis import exceptions as redis_errors

from shared.advice import advice_for, noted, place_of
from shared.errors import JanitorError, RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from tenacity import RetryCallState

Result = TypeVar("Result")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
UNANSWERED_S = 1.5
"""How long a mistake in the settings is tried again where no reply ever came: the tick is billed by time."""


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
    "MAXCLIENTS": Fault.AGAIN,
    "PROTOCOL": Fault.AGAIN,  # the connection was dropped; another one may be well
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
    "TLSMISMATCH": Fault.GIVE_UP,
    "DENIED": Fault.GIVE_UP,
    "TOOLARGE": Fault.GIVE_UP,
    "NOCOMMAND": Fault.GIVE_UP,
    # what a single entry can bring about
    "WRONGTYPE": Fault.ENTRY,
}
"""Anything that is not named here is the entry's own, unknown error where an entry was being written, and ends the sweep
where not (see ``is_entrys_own``)."""


_DENIED_IN_A_SCRIPT: Final = (
    "ACL failure in script",
    "can't run this command or subcommand",
    "can't access at least one of",
)
"""What servers say of a command in a script that its caller may not run: 7.2 and later; 7.0 of the command, and of a key."""


def code_of(error: BaseException) -> str:
    """The first word of Redis's error reply, such as ``OOM``; ``CONNECTION``, ``TIMEOUT`` or ``TLS`` where none came,
    ``PROTOCOL`` or ``TOOLARGE`` where what came was no reply or too much.

    redis-py takes the word off the errors it has a class for and keeps it as ``status_code``.
    """
    status = getattr(error, "status_code", None)
    if status and status != "ERR":
        return str(status)
    if isinstance(error, redis_errors.AuthenticationError):
        return "NOAUTH"
    if isinstance(error, redis_errors.ConnectionError) and "max number of clients reached" in str(error):
        return "MAXCLIENTS"
    if isinstance(error, redis_errors.ConnectionError):
        return "TLS" if _is_tls(error) else "CONNECTION"
    if isinstance(error, redis_errors.TimeoutError):
        return "TIMEOUT"
    if any(words in str(error) for words in _DENIED_IN_A_SCRIPT):
        return "NOPERM"  # what a script calls is checked against the caller's rights, with words of its own
    if "Existing key has wrong Redis type" in str(error):
        return "WRONGTYPE"  # RedisJSON's words for it
    if any(words in str(error) for words in ("unknown command", "nknown Redis command", "unsupported command")):
        return "NOCOMMAND"  # renamed or disabled on this server: no entry can be at fault
    word = str(error).split(" ", 1)[0].lstrip("-")
    return word if word.isascii() and word.isupper() and word.isalpha() else "ERR"


def _is_tls(error: BaseException) -> bool:
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in _chain(error)) or (
        "CERTIFICATE_VERIFY_FAILED" in str(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def cause_of(error: BaseException) -> BaseException | None:
    """The system's own error that a connection error was made of; None: there is none, or it says nothing."""
    for one in _chain(error):
        if isinstance(one, (ConnectionRefusedError, socket.gaierror, ssl.SSLError)):
            return one
        if isinstance(one, OSError) and set(re.findall(r"\[Errno (\d+)\]", str(one))) == {str(errno.ECONNREFUSED)}:
            return ConnectionRefusedError()  # several addresses, and all of them refused
    return None


def is_mistake_in_settings(error: BaseException) -> bool:
    """Whether ``error``, met before any reply came, tells of an address that is wrong rather than of a server in trouble."""
    circumstances, cause = noted(error), cause_of(error)
    if circumstances is not None and circumstances.others_answer:
        return False
    if isinstance(cause, socket.gaierror):
        return cause.errno != socket.EAI_AGAIN  # a name server in trouble
    return cause is not None or code_of(error) in ("PROTOCOL", "READONLY")


def is_silent_about_tls(error: BaseException) -> bool:
    """Whether ``error``, met at connecting, may come from TLS on one side only."""
    if getattr(error, "status_code", None) not in (None, "PROTOCOL") or _is_tls(error):
        return False
    return not isinstance(cause_of(error), (ConnectionRefusedError, socket.gaierror))


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


class Answering(Protocol):
    """What counts the batches that were answered."""

    answers: int


class Contact:
    """Whether any reply came since a sweep began. Once it did, a refused connection is a server that restarts or fails over:
    what is handled has to be acknowledged, so it is waited for."""

    def __init__(self, link: Answering) -> None:
        self._link = link
        self._answers = link.answers
        self._began_s = time.monotonic()

    def is_pointless(self, error: BaseException, wait_s: float) -> bool:
        """Whether ``error`` tells of a wrong address, and that was tried for long enough by the end of ``wait_s``."""
        if self._link.answers > self._answers or not is_mistake_in_settings(error):
            return False
        return time.monotonic() + wait_s > self._began_s + UNANSWERED_S


async def retry(
    attempt: Callable[[], Awaitable[Result]],
    deadline: Deadline,
    reconnect: Callable[[], Awaitable[None]],
    contact: Contact | None = None,
) -> Result:
    """Repeat ``attempt`` while its error says that it may work in a moment, until ``deadline``; then let the error through.

    Only for what is safe to repeat. Full jitter, so that several janitors do not come back in step. ``contact``: without any
    reply, an address that is wrong is tried for ``UNANSWERED_S`` only; None: as if there had been one.
    """

    async def before_next(state: RetryCallState) -> None:
        error = _error_of(state)
        if error is not None and fault_of(error) is Fault.RECONNECT:
            await reconnect()

    def ends(state: RetryCallState) -> bool:
        error = _error_of(state)
        if contact is not None and error is not None and contact.is_pointless(error, state.upcoming_sleep):
            return True
        return deadline.left_s() <= state.upcoming_sleep

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
        stop=ends,
        before_sleep=before_next,
        reraise=True,
    )(once)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


_OUT_OF_REACH = (
    "CONNECTION", "TIMEOUT", "PROTOCOL", "TLSMISMATCH", "MAXCLIENTS", "LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN",
)  # fmt: skip


def to_user_error(error: BaseException, doing: str) -> JanitorError:
    """``error`` as one of ours: what it was met at, its code, and what to do; nothing of its own text, which may quote data."""
    code = code_of(error)
    kind = RedisUnavailable if code in _OUT_OF_REACH else RedisRefused
    return kind(f"{advice_for(code, error, cause_of(error))} ({place_of(error)}while at {doing})")
