"""HANDLER=webhook: POST abandoned entries to HANDLER_URL, signed by the Standard Webhooks scheme with HANDLER_SECRET.

=====================================================  ==========================================================
what the receiver answers                              what becomes of the entries
=====================================================  ==========================================================
2xx                                                    done
4xx, but for 429                                       dead; a batch is halved until the entry at fault stands alone
429, 502, 503, 504                                     unavailable, until Retry-After
3xx                                                    unavailable: redirects are not followed
any other status, no answer in time, a broken answer   an attempt
refused, unknown name, bad certificate, no connection  unavailable
=====================================================  ==========================================================

A receiver may get a batch twice, and an entry in another batch: it knows a batch by its ``webhook-id``, an entry by its
stream and id. HANDLER_URL is a secret: it is never printed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks.webhooks import Webhook

from monitor.handlers.webhook_body import body_of, message_id
from shared.errors import SettingsError
from stream_janitor import Dead, Done, Entry, Retry, Unavailable, __version__

Result: TypeAlias = Done | Retry | Dead | Unavailable
Handler: TypeAlias = Callable[[list[Entry]], Awaitable[dict[str, Result]]]

LONGEST_CONNECT_S: Final = 5.0
LONGEST_RETRY_AFTER_S: Final = 24 * 3600.0
SHORTEST_SECRET_BYTES, LONGEST_SECRET_BYTES = 24, 64  # the scheme's own limits


@contextlib.asynccontextmanager
async def handler(options: Mapping[str, str]) -> AsyncIterator[Handler]:
    """The handler, over one pool of connections.

    Raises:
        SettingsError: HANDLER_URL or HANDLER_SECRET cannot be used.
    """
    url, secret = options.get("HANDLER_URL", ""), options.get("HANDLER_SECRET", "")
    problems = [problem for problem in (url_problem(url), secret_problem(secret)) if problem]
    if problems:
        raise SettingsError(problems)
    timeout_s = float(options["HANDLER_TIMEOUT_SEC"])
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=min(LONGEST_CONNECT_S, timeout_s / 2), sock_read=timeout_s
    )  # the runner's own timeout bounds the whole
    connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context())
    # No proxy of the environment and no netrc: nobody asked for them. No cookies: nothing is to depend on an earlier call.
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield Sender(session, url, Webhook(secret)).send


def url_problem(url: str) -> str | None:
    """What is wrong with HANDLER_URL, without a word of it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("https", "http"):
        return "HANDLER_URL: expected an https URL"
    if parts.scheme == "http" and not _is_loopback(host):
        return "HANDLER_URL: expected https, since entries must not travel readable; http is for this machine only"
    return None


def secret_problem(secret: str) -> str | None:
    """What is wrong with HANDLER_SECRET, without a word of it."""
    try:
        size = len(base64.b64decode(secret.removeprefix("whsec_") + "==", validate=False))
    except (binascii.Error, ValueError):
        size = 0
    if SHORTEST_SECRET_BYTES <= size <= LONGEST_SECRET_BYTES:
        return None
    return (
        f"HANDLER_SECRET: expected {SHORTEST_SECRET_BYTES} to {LONGEST_SECRET_BYTES} random bytes in base64, with or without "
        'whsec_ in front; make one with: python -c "import base64,os;print(base64.b64encode(os.urandom(32)).decode())"'
    )


class Sender:
    """Posts batches and reads the answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str, signer: Webhook) -> None:
        self._session, self._url, self._signer = session, url, signer

    async def send(self, entries: list[Entry]) -> dict[str, Result]:
        """One result for each entry."""
        results: dict[str, Result] = {}
        waiting = [entries]
        while waiting:
            batch = waiting.pop()
            result = await self._post(batch)
            if isinstance(result, Dead) and len(batch) > 1:
                half = len(batch) // 2
                waiting += (batch[half:], batch[:half])
                continue
            results |= dict.fromkeys((entry.entry_id for entry in batch), result)
            if isinstance(result, Unavailable):  # nor would it take the others
                results |= dict.fromkeys((entry.entry_id for left in waiting for entry in left), result)
                break
        return results

    async def _post(self, entries: Sequence[Entry]) -> Result:
        at = datetime.now(timezone.utc)
        body, webhook_id = body_of(entries, at), message_id(entries)
        headers = {
            "content-type": "application/json",
            "user-agent": f"stream-janitor/{__version__}",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._signer.sign(webhook_id, at, body),
        }
        try:
            async with self._session.post(
                self._url, data=body.encode(), headers=headers, allow_redirects=False
            ) as response:
                return result_of(response.status, response.headers.get("Retry-After"), at)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Unavailable(f"the receiver is out of reach ({type(error).__name__})")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # It may have the batch: an attempt, or a batch that makes the receiver crash would come for ever.
            return Retry(reason=f"no answer from the receiver ({type(error).__name__})")


def result_of(status: int, retry_after: str | None, now: datetime) -> Result:
    """What an answer means for the entries that were sent."""
    if 200 <= status < 300:
        return Done()
    if status in (429, 502, 503, 504):
        return Unavailable(f"the receiver answered HTTP {status}", seconds_of(retry_after, now))
    if 300 <= status < 400:
        return Unavailable(
            f"the receiver redirects (HTTP {status}), which is not followed: set HANDLER_URL to its new place"
        )
    if 400 <= status < 500:
        return Dead(f"the receiver answered HTTP {status}")
    return Retry(reason=f"the receiver answered HTTP {status}")


def seconds_of(retry_after: str | None, now: datetime) -> float | None:
    """Retry-After, seconds or a date (RFC 9110, 10.2.3), bounded by a day; None if it says nothing."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=timezone.utc)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
