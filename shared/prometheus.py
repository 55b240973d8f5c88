"""Metrics to pull: the process's instruments on a listener of their own, in Prometheus's text format.

Imported only where ``OTEL_METRICS_EXPORTER`` names ``prometheus``. The exporter is beta and tied to one version of the SDK, so
it is an extra (requirements-prometheus.txt).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

logger = logging.getLogger("monitor")

HOST: Final = "OTEL_EXPORTER_PROMETHEUS_HOST"
PORT: Final = "OTEL_EXPORTER_PROMETHEUS_PORT"
DEFAULT_HOST: Final = "localhost"
DEFAULT_PORT: Final = 9464
LONGEST_REQUEST_S: Final = 10.0
PATH: Final = "/metrics"


class ScrapedReader(PrometheusMetricReader):
    """Collects when it is scraped, and only then."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing. The SDK's own collects: families then come doubled, and memory grows while nobody scrapes."""
        return True


class _OneScrapeAtATime(CollectorRegistry):
    """The exporter's queue is shared: of two scrapes at once, one would get the other's families beside its own."""

    def __init__(self) -> None:
        super().__init__(auto_describe=False)
        self._scrape = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._scrape:
            return iter(list(super().collect()))


class Listener:
    """Serves ``/metrics`` from threads of its own until ``close``."""

    def __init__(self, host: str, port: int) -> None:
        """Bind; port 0 is any free one.

        Raises:
            OSError: the address cannot be had.
        """
        registry = _OneScrapeAtATime()
        self.reader = ScrapedReader(scope_info_enabled=False, registry=registry)
        self._server = _server(host, port, registry)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.server_address[:2]
        return str(host), port

    def close(self) -> None:
        """Free the address. Takes a twentieth of a second at most."""
        self._server.shutdown()
        self._server.server_close()


def open_listener(environment: Mapping[str, str]) -> Listener | None:
    """The listener that the usual two variables name; None, and a warning, if it cannot be had."""
    host = environment.get(HOST, "").strip() or DEFAULT_HOST
    written = environment.get(PORT, "").strip() or str(DEFAULT_PORT)
    if not written.isdecimal() or int(written) > 65535:
        logger.warning("no metrics can be pulled: %s is not a port (0 to 65535)", PORT)
        return None
    try:
        return Listener(host, int(written))
    except OSError as error:
        problem = error.strerror or type(error).__name__
        logger.warning("no metrics can be pulled: %s port %s (%s, %s): %s", host, written, HOST, PORT, problem)
        return None


def _server(host: str, port: int, registry: CollectorRegistry) -> ThreadingHTTPServer:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]

    class Handler(_Handler):
        metrics = registry

    class Server(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A scraper that goes away is no news."""

    return Server(address[:2], Handler)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    metrics: CollectorRegistry
    timeout = LONGEST_REQUEST_S
    server_version = "stream-janitor"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.metrics)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a scrape is no event."""
