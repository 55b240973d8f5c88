"""HANDLER=webhook against a real HTTP server: what is sent, and what each answer means."""

from __future__ import annotations

import base64
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

pytest.importorskip("aiohttp", reason="pip install -r requirements-handlers.txt")
webhooks = pytest.importorskip("standardwebhooks.webhooks", reason="pip install -r requirements-handlers.txt")

from monitor.handlers.webhook import LONGEST_RETRY_AFTER_S, handler, result_of, seconds_of, url_problem  # noqa: E402
from monitor.handlers.webhook_body import message_id  # noqa: E402
from shared.errors import SettingsError  # noqa: E402
from stream_janitor import Dead, Done, Entry, Retry, Unavailable  # noqa: E402

pytestmark = pytest.mark.more

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
CANARY = "kanarie-7Qx"


def entry(number: int, *pairs: tuple[bytes, bytes], stream: str = "orders") -> Entry:
    return Entry(f"{number}-0", pairs or ((b"order", b"%d" % number),), stream, "billing", 2, "crashed", 60.0)


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def ids(self) -> list[str]:
        return [one["id"] for one in json.loads(self.body)["data"]["entries"]]


Answer = Callable[[Request], tuple[int, dict[str, str]] | None]
"""Status and headers; None: hang up without a word."""


@dataclass
class Receiver:
    """A real HTTP server that answers as a test says, and remembers what it got."""

    answer: Answer = lambda request: (200, {})
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                receiver.requests.append(request)
                told = receiver.answer(request)
                if told is None:
                    self.close_connection = True
                    return
                self.send_response(told[0])
                body = b"" if told[0] == 204 else b"ok"
                for name, value in {"content-length": str(len(body)), **told[1]}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None: ...  # a client that refuses our certificate

        self._server = Server(("127.0.0.1", 0), Handler)
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


async def send(url: str, *entries: Entry, timeout_s: float = 30.0) -> list[Any]:
    options = {"HANDLER_URL": url, "HANDLER_SECRET": SECRET, "HANDLER_TIMEOUT_SEC": str(timeout_s)}
    async with handler(options) as deliver:
        results = await deliver(list(entries or [entry(1)]))
    return [results[one.entry_id] for one in entries or [entry(1)]]


# --- what is sent ---------------------------------------------------------------------------------------------------------


async def test_a_batch_is_signed_json_that_the_scheme_s_own_library_verifies(receiver: Receiver) -> None:
    pairs = ((b"name", "grün".encode()), (b"name", b"second"), (b"\xff", b"\x00\xfe"), (b"empty", b""))
    assert await send(receiver.url, entry(1, *pairs), entry(2)) == [Done(), Done()]
    (request,) = receiver.requests
    told = webhooks.Webhook(SECRET).verify(request.body, request.headers)
    assert (told["type"], told["data"]["stream"], told["data"]["group"]) == (
        "stream_janitor.entries",
        "orders",
        "billing",
    )
    assert abs(datetime.fromisoformat(told["timestamp"]) - datetime.now(timezone.utc)) < timedelta(minutes=5)
    assert told["data"]["entries"][0] == {
        "id": "1-0",
        "deliveries": 2,
        "last_consumer": "crashed",
        "age_s": 60.0,
        "fields": [
            ["name", "grün"],
            ["name", "second"],
            [{"base64": "/w=="}, {"base64": base64.b64encode(b"\x00\xfe").decode()}],
            ["empty", ""],
        ],
    }
    assert request.headers["content-type"] == "application/json"
    with pytest.raises(webhooks.WebhookVerificationError):
        webhooks.Webhook(SECRET).verify(request.body + b" ", request.headers)


async def test_a_batch_sent_again_has_the_same_id_and_no_other_batch_has_it(receiver: Receiver) -> None:
    for _ in range(2):
        await send(receiver.url, entry(1), entry(2))
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    batches = ([entry(1), entry(2)], [entry(1)], [entry(2)], [entry(2), entry(1)], [entry(1, stream="other")])
    assert len({message_id(batch) for batch in batches}) == len(batches)


# --- what the answers mean ------------------------------------------------------------------------------------------------

UNAVAILABLE = (429, 502, 503, 504)


def kind_expected(status: int) -> type:
    if status < 300:
        return Done
    if status in UNAVAILABLE or status < 400:
        return Unavailable
    return Dead if status < 500 else Retry


async def test_every_status_means_what_the_table_says(receiver: Receiver) -> None:
    statuses = [status for status in range(200, 600) if status not in (204, 304)]  # those have no body
    told = iter(statuses)
    receiver.answer = lambda request: (next(told), {"location": "/elsewhere"})
    options = {"HANDLER_URL": receiver.url, "HANDLER_SECRET": SECRET, "HANDLER_TIMEOUT_SEC": "30"}
    async with handler(options) as deliver:
        results = [(await deliver([entry(1)]))["1-0"] for _ in statuses]
    wrong = [s for s, result in zip(statuses, results, strict=True) if type(result) is not kind_expected(s)]
    assert wrong == []
    assert {request.path for request in receiver.requests} == {"/hook"}, "a redirect was followed"


async def test_an_answer_without_a_body_counts_too(receiver: Receiver) -> None:
    receiver.answer = lambda request: (204, {})
    assert await send(receiver.url) == [Done()]


@pytest.mark.parametrize("status", UNAVAILABLE)
async def test_retry_after_says_when_to_come_back(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda request: (status, {"retry-after": "17"})
    (result,) = await send(receiver.url)
    assert (result.reason, result.after_s) == (f"the receiver answered HTTP {status}", 17)


NOW = datetime(2026, 11, 25, 4, 28, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999999", LONGEST_RETRY_AFTER_S),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert seconds_of(value, NOW) == seconds


async def test_one_bad_entry_of_a_batch_is_dead_and_costs_no_other(receiver: Receiver) -> None:
    receiver.answer = lambda request: (422 if "5-0" in request.ids else 200, {})
    results = await send(receiver.url, *(entry(number) for number in range(8)))
    assert results == [Dead("the receiver answered HTTP 422") if number == 5 else Done() for number in range(8)]
    accepted = [one for request in receiver.requests if "5-0" not in request.ids for one in request.ids]
    assert sorted(accepted) == sorted(f"{number}-0" for number in range(8) if number != 5), "each was accepted once"
    assert len(receiver.requests) == 7, "halved, not one by one"


async def test_a_receiver_that_goes_away_midway_leaves_the_rest_unavailable(receiver: Receiver) -> None:
    def answer(request: Request) -> tuple[int, dict[str, str]]:
        if len(request.ids) == 4:
            return 400, {}
        return (200 if request.ids[0] == "0-0" else 503), {}

    receiver.answer = answer
    results = await send(receiver.url, *(entry(number) for number in range(4)))
    assert [type(result) for result in results] == [Done, Done, Unavailable, Unavailable]


async def test_a_batch_that_the_receiver_fails_on_is_an_attempt_for_all_and_is_not_halved(receiver: Receiver) -> None:
    receiver.answer = lambda request: (500, {})
    results = await send(receiver.url, entry(1), entry(2))
    assert results == [Retry(reason="the receiver answered HTTP 500")] * 2
    assert len(receiver.requests) == 1


async def test_a_receiver_that_hangs_up_without_an_answer_is_an_attempt(receiver: Receiver) -> None:
    """It may have the batch; and a batch that makes it crash must reach its cap."""
    receiver.answer = lambda request: None
    assert await send(receiver.url) == [Retry(reason="no answer from the receiver (ServerDisconnectedError)")]


async def test_a_receiver_that_never_answers_is_an_attempt(receiver: Receiver) -> None:
    go_on = threading.Event()
    receiver.answer = lambda request: (200, {}) if go_on.wait(60) else None
    (result,) = await send(receiver.url, timeout_s=0.2)
    go_on.set()
    assert result == Retry(reason="no answer from the receiver (SocketTimeoutError)")


# --- out of reach ---------------------------------------------------------------------------------------------------------


def nobody_listens() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_refused_connection_is_unavailable() -> None:
    (result,) = await send(f"http://127.0.0.1:{nobody_listens()}/")
    assert isinstance(result, Unavailable)
    assert result.reason == "the receiver is out of reach (ClientConnectorError)"


async def test_a_name_that_nobody_knows_is_unavailable() -> None:
    (result,) = await send("https://no-such-host.invalid/")
    assert isinstance(result, Unavailable)
    assert "DNS" in result.reason


async def test_a_receiver_that_accepts_no_connection_in_time_is_unavailable() -> None:
    """A listener whose queue is full: the handshake is never finished."""
    with socket.socket() as listener, Closing() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        (result,) = await send(f"http://127.0.0.1:{port}/", timeout_s=1)
    assert isinstance(result, Unavailable)
    assert result.reason == "the receiver is out of reach (ConnectionTimeoutError)"


class Closing(list[socket.socket]):
    def __enter__(self) -> Closing:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self:
            one.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_tls_is_spoken_with_a_receiver_whose_certificate_is_good(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Receiver(tls=server_side(authority, "127.0.0.1")) as receiver:
        assert await send(receiver.url) == [Done()]


@pytest.mark.parametrize("fault", ["unknown authority", "another name"])
async def test_a_bad_certificate_is_unavailable_and_nothing_is_sent(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, fault: str
) -> None:
    if fault == "another name":
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Receiver(tls=server_side(authority, "elsewhere.example")) as receiver:
        (result,) = await send(receiver.url)
    assert isinstance(result, Unavailable)
    assert "Certificate" in result.reason
    assert receiver.requests == []


async def test_a_receiver_that_speaks_no_tls_is_unavailable(receiver: Receiver) -> None:
    (result,) = await send(receiver.url.replace("http:", "https:"))
    assert isinstance(result, Unavailable)


async def test_a_proxy_of_the_environment_gets_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await send(receiver.url) == [Done()]
    assert proxy.requests == []


# --- settings and secrets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("https://example.com/hook", True),
        ("https://example.com:8443/", True),
        ("http://localhost:8080/", True),
        ("http://127.0.0.5/", True),
        ("http://[::1]:8080/", True),
        ("http://example.com/", False),
        ("http://localhost.example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://0.0.0.0/", False),
        ("ftp://example.com/", False),
        ("example.com", False),
        ("https://", False),
        ("https://example.com:x/", False),
        ("", False),
    ],
)
def test_entries_travel_readable_only_within_this_machine(url: str, is_good: bool) -> None:
    problem = url_problem(url)
    assert (problem is None) == is_good
    assert "example" not in (problem or "")


@pytest.mark.parametrize("secret", ["", "whsec_", "short", "whsec_" + base64.b64encode(b"x" * 23).decode(), CANARY])
async def test_a_secret_that_is_none_is_refused_without_a_word_of_it(secret: str) -> None:
    options = {"HANDLER_URL": f"http://{CANARY}.example/", "HANDLER_SECRET": secret, "HANDLER_TIMEOUT_SEC": "5"}
    with pytest.raises(SettingsError) as refused:
        async with handler(options):
            pass
    assert "HANDLER_SECRET: expected 24 to 64 random bytes" in str(refused.value)
    assert "HANDLER_URL: expected https" in str(refused.value)
    assert CANARY not in repr(refused.value)


async def test_the_url_and_the_secret_are_in_no_log_and_no_result(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    for name in ("aiohttp", "aiohttp.client", "aiohttp.internal", "asyncio"):
        logging.getLogger(name).setLevel(1)
    answers = iter([200, 302, 400, 429, 500])
    receiver.answer = lambda request: (next(answers), {"location": f"/{CANARY}"})
    told = [
        str(await send(f"{receiver.url}/{CANARY}?token={CANARY}", entry(1, (b"a", CANARY.encode())))) for _ in range(5)
    ]
    told.append(str(await send(f"http://{CANARY}:{CANARY}@127.0.0.1:{nobody_listens()}/")))
    assert receiver.requests[0].path.endswith(f"token={CANARY}"), "control: the canary was there"
    assert CANARY not in caplog.text + "".join(told)


def test_result_of_is_total() -> None:
    assert all(result_of(status, None, NOW) for status in range(100, 600))
