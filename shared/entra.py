"""Logging in to Redis with tokens of Microsoft Entra ID, renewed on the living connections.

redis-entraid gets the tokens; it is imported here, and only with REDIS_AUTH=entra. redis-py's own way to renew them
(``StreamingCredentialProvider``) is not used: it sends AUTH on connections that it has given back to the pool already, so a
task that takes such a connection meets the AUTH's reply in place of its own, or fails; and its renewal ends for good
at the first error. Here a connection logs in anew when its next command is about to be sent: then it is in one task's hands, and
no reply is outstanding on it.

No token is in any message, log line or ``repr`` of this module.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.auth.token import TokenInterface
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError

from shared.connection import PlainConnection, TlsConnection
from shared.errors import RedisRefused, RedisUnavailable
from shared.settings import EntraSettings

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    _ConnectionBase = AbstractConnection
else:
    _ConnectionBase = object

logger = logging.getLogger("monitor")

RESOURCE: Final = "https://redis.azure.com/"
SCOPE: Final = "https://redis.azure.com/.default"

RENEW_AFTER_SHARE: Final = 0.7
"""Of a token's life; a token of 24 hours leaves 7 of them to the next attempts, one of an hour 18 minutes."""
PAUSE_SHARE, LONGEST_PAUSE_S = 0.02, 30.0
"""Between two requests while the old token is still good; a platform's cache may well answer with the old one."""
ENDPOINT_TIMEOUT_S: Final = 5.0
ENDPOINT_RETRIES: Final = 2


def now_s() -> float:
    """The wall clock, which tokens go by."""
    return time.time()


class IdentityProvider(Protocol):
    """What gives tokens: redis-py's ``IdentityProviderInterface``. May block; is called in a thread."""

    def request_token(self, force_refresh: bool = False) -> TokenInterface: ...


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the Redis user that it is for; times in seconds by the wall clock."""

    user: str
    value: str = field(repr=False)
    renew_at_s: float
    expires_at_s: float
    pause_s: float

    @classmethod
    def of(cls, token: TokenInterface) -> Token:
        """Raises ValueError if the token names no user."""
        user = token.try_get("oid")
        if not user:
            raise ValueError("the token names no object id")
        received_at_s, expires_at_s = now_s(), token.get_expires_at_ms() / 1000
        life_s = max(expires_at_s - received_at_s, 0.0)
        renew_at_s = received_at_s + RENEW_AFTER_SHARE * life_s
        return cls(user, token.get_value(), renew_at_s, expires_at_s, min(PAUSE_SHARE * life_s, LONGEST_PAUSE_S))


class TokenSource:
    """The newest token of one identity. Asks for the next one in good time; belongs to one event loop."""

    def __init__(self, provider: IdentityProvider, timeout_s: float) -> None:
        """``timeout_s``: how long a command waits for a token where there is none yet."""
        self._provider = provider
        self._timeout_s = timeout_s
        self._token: Token | None = None
        self._request: asyncio.Future[None] | None = None
        self._ask_at_s = 0.0
        self._failure = "no answer in time"

    async def token(self) -> Token:
        """A token that is still good. Waits only if there is none: a renewal goes on beside the commands.

        Raises:
            RedisUnavailable: Entra ID gave none in time.
        """
        token = self._token
        if token is not None and now_s() < token.expires_at_s:
            if now_s() >= max(token.renew_at_s, self._ask_at_s):
                self._ask()
            return token
        await asyncio.wait([self._ask()], timeout=self._timeout_s)
        if self._token is None or now_s() >= self._token.expires_at_s:
            raise RedisUnavailable(
                f"Entra ID gave no token ({self._failure}): check the app's managed identity, "
                "REDIS_ENTRA_CREDENTIAL and REDIS_ENTRA_CLIENT_ID"
            )
        return self._token

    def discard(self, token: Token) -> None:
        """Redis refused it: the next login asks for another one."""
        if self._token == token:
            self._token = None

    def _ask(self) -> asyncio.Future[None]:
        """The request that is under way, or a new one: one at a time, however many connections wait for it."""
        if self._request is None or self._request.done():
            loop = asyncio.get_running_loop()
            self._request = loop.create_future()
            # Not the loop's executor: its threads are waited for at the end, and an endpoint may be silent for minutes.
            arguments = (loop, self._request, self._token is not None)
            threading.Thread(target=self._ask_in_thread, args=arguments, name="entra-token", daemon=True).start()
        return self._request

    def _ask_in_thread(self, loop: asyncio.AbstractEventLoop, request: asyncio.Future[None], renews: bool) -> None:
        answer: Token | Exception
        try:
            answer = Token.of(self._provider.request_token(force_refresh=renews))
        except Exception as error:  # noqa: BLE001
            answer = error
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(self._answered, request, answer)

    def _answered(self, request: asyncio.Future[None], answer: Token | Exception) -> None:
        if isinstance(answer, Token):
            self._token = answer
            self._ask_at_s = now_s() + answer.pause_s
        else:
            # Its text may quote the answer: the kind has to do.
            self._failure = " from ".join(dict.fromkeys(type(error).__name__ for error in _causes(answer)))
            self._told_failed_renewal()
        if not request.done():
            request.set_result(None)

    def _told_failed_renewal(self) -> None:
        if self._token is None:
            return
        self._ask_at_s = now_s() + self._token.pause_s
        left_s = self._token.expires_at_s - now_s()
        logger.warning("the Entra token was not renewed (%s); the old one is good for %.0f s", self._failure, left_s)


def _causes(error: BaseException) -> Iterable[BaseException]:
    """``error`` and what it was made of, as redis-entraid wraps one in another's arguments."""
    yield error
    wrapped = next((one for one in error.args if isinstance(one, BaseException)), None)
    if wrapped is not None:
        yield from _causes(wrapped)


class _Login(CredentialProvider):
    """One connection's login: knows which token the connection has shown to Redis."""

    def __init__(self, source: TokenSource) -> None:
        self.source = source
        self.shown: Token | None = None

    async def get_credentials_async(self) -> tuple[str, str]:
        self.shown = await self.source.token()
        return self.shown.user, self.shown.value


class _Renewing(_ConnectionBase):
    """A connection that logs in anew before its next command, once there is a newer token than the one it has shown."""

    def __init__(self, *, token_source: TokenSource, **options: Any) -> None:
        super().__init__(**options)
        self._login = self.credential_provider = _Login(token_source)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            await super().on_connect_check_health(check_health)
        except ResponseError as error:
            await self.disconnect()
            if _is_about_login(error):
                raise self._refused() from None
            raise
        except BaseException as error:
            # redis-py closes the connection for its own errors only, and would use it again without a login.
            await self.disconnect(nowait=True)
            if isinstance(error, AuthenticationError):
                raise self._refused() from None
            raise

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if self.is_connected and self._login.shown is not None:
            newest = await self._login.source.token()
            if newest.value != self._login.shown.value:
                await self._log_in_anew(newest)
        await super().send_packed_command(command, check_health)

    async def _log_in_anew(self, token: Token) -> None:
        self._login.shown = token
        try:
            await super().send_packed_command(self.pack_command("AUTH", token.user, token.value), check_health=False)
            await self.read_response()
        except (AuthenticationError, ResponseError):
            await self.disconnect()
            raise self._refused() from None
        except ConnectionError:
            # It was closed while it lay idle, as it is when its old token ends. Nothing but the login was sent on it.
            await self.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    def _refused(self) -> RedisRefused:
        token = self._login.shown
        if token is not None:
            self._login.source.discard(token)
        user = "unknown" if token is None else token.user
        return RedisRefused(
            f"Redis refused the Entra token of the identity with the object id {user}: give it a data access policy "
            "on this Redis, and see that Entra authentication is on there"
        )


def _is_about_login(error: ResponseError) -> bool:
    """Redis quotes what it does not understand, the token with it: such a text must not go further."""
    return "nknown command" in str(error) or "wrong number of arguments" in str(error)


class RenewingConnection(_Renewing, PlainConnection):
    """Over TCP, which settings allow on this machine only."""


class RenewingTlsConnection(_Renewing, TlsConnection):
    """Over TLS."""


def connection_options(source: TokenSource, tls: bool) -> dict[str, Any]:
    """What a pool needs to make connections that log in with tokens."""
    return {"connection_class": RenewingTlsConnection if tls else RenewingConnection, "token_source": source}


def token_source(settings: EntraSettings, timeout_s: float) -> TokenSource:
    return TokenSource(identity_provider(settings), timeout_s)


def identity_provider(settings: EntraSettings) -> IdentityProvider:
    """redis-entraid's provider for what ``settings`` name. Connects to nothing yet.

    Raises:
        ImportError: redis-entraid is not installed; ``Settings.from_env`` has told how to get it by then.
    """
    # Under DEBUG it logs answers that it does not understand, whole.
    logging.getLogger("msal").setLevel(logging.INFO)
    return _default_provider(settings) if settings.credential == "default" else _managed_provider(settings)


def _managed_provider(settings: EntraSettings) -> IdentityProvider:
    from msal import (  # type: ignore[import-untyped]
        ManagedIdentityClient,
        SystemAssignedManagedIdentity,
        UserAssignedManagedIdentity,
    )
    from redis_entraid.identity_provider import ManagedIdentityProvider  # type: ignore[import-untyped]

    identity = (
        UserAssignedManagedIdentity(client_id=settings.client_id)
        if settings.client_id
        else SystemAssignedManagedIdentity()
    )
    provider: IdentityProvider = ManagedIdentityProvider(
        ManagedIdentityClient(identity, http_client=_bounded_session()), RESOURCE
    )
    return provider


def _default_provider(settings: EntraSettings) -> IdentityProvider:
    from azure.identity import DefaultAzureCredential
    from redis_entraid.identity_provider import DefaultAzureCredentialProvider

    names = ("managed_identity_client_id", "workload_identity_client_id")
    options = dict.fromkeys(names, settings.client_id) if settings.client_id else {}
    provider: IdentityProvider = DefaultAzureCredentialProvider(DefaultAzureCredential(**options), (SCOPE,))
    return provider


def _bounded_session() -> Any:
    """An HTTP session for the platform's identity endpoint: never silent for long, and asked again once or twice."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class Bounded(HTTPAdapter):
        def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
            return super().send(request, *arguments, **{**options, "timeout": ENDPOINT_TIMEOUT_S})

    retry = Retry(
        total=ENDPOINT_RETRIES,
        backoff_factor=0.3,
        status_forcelist=(404, 410, 429, 500, 502, 503, 504),  # what the endpoint's documentation says to repeat
        allowed_methods=("GET",),
        raise_on_status=False,
    )
    session = requests.Session()
    session.headers["Connection"] = "close"  # the next request is hours away
    session.trust_env = False  # the endpoint is on this machine or link-local; a proxy would be given the request
    session.mount("http://", Bounded(max_retries=retry))
    session.mount("https://", Bounded(max_retries=retry))
    return session
