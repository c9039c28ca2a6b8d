"""`/metrics`, `/healthz` and `/readyz` of one process, answered by a thread of its own.

Owns the little server. Refuses to know what is measured and what healthy means: functions say.

A thread, so that an event loop that hangs is still seen to hang. Health asks nobody else: a broker
that is away must not make a supervisor restart everything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Info, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import stream_app
from ops.errors import ConfigError
from ops.listening import split_listen

log = logging.getLogger(__name__)

SCHEMA: Final = Path(stream_app.__file__).parent / "schema"
REQUEST_SECONDS: Final = 5.0
CONNECTIONS_MAX: Final = 16


class MetricsServer:
    """Answers until `close`.

    Args:
        listen: `HOST:PORT`; port 0 takes a free one, see `port`.
        collector: What is measured.
        healthy: Whether the process lives.
        ready: Whether it does its work.
        why: What keeps it from that, in a line, as far as is known.

    Raises:
        ConfigError: The address cannot be used.
    """

    def __init__(
        self,
        listen: str,
        collector: Collector,
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
        why: Callable[[], str] = str,
    ) -> None:
        registry = process_registry()
        registry.register(collector)
        host, port = split_listen(listen)
        try:
            self._server = _Server((host, port), _handler(registry, healthy, ready, why))
        except OSError as error:
            raise ConfigError(
                f"metrics_listen = {listen!r}: {error.strerror}",
                "another process may answer there; give each its own, by CDRSTREAM_... or --set",
            ) from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics_served", extra={"listen": f"{host}:{self.port}"})

    def close(self) -> None:
        """No answer any more."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def served(
    listen: str,
    collector: Collector,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    why: Callable[[], str] = str,
) -> Iterator[None]:
    """Serves in this block, where an address is given and free.

    A port that is taken (a second worker with the same file, or one that is still ending) must not
    keep a service from starting: it goes on unmeasured, and says so.
    """
    if not listen:
        yield
        return
    try:
        server = MetricsServer(listen, collector, healthy, ready, why)
    except ConfigError as error:
        log.warning("metrics_not_served", extra={"error": str(error), "advice": error.advice})
        yield
        return
    try:
        yield
    finally:
        server.close()


def process_registry() -> CollectorRegistry:
    """A registry with what every process tells: its version, memory and processor time."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, and nobody asks for it
    registry = CollectorRegistry(auto_describe=False)
    Info("cdrstream_build", "the program's version, and its schema's", registry=registry).info(
        {"version": version("cdrstream"), "schema": newest_schema()}
    )
    ProcessCollector(registry=registry)
    return registry


def newest_schema() -> str:
    """The number of the newest migration that this program brings along."""
    names = (path.name for path in SCHEMA.glob("[0-9]*.sql"))
    return max(names, default="").partition("_")[0].lstrip("0")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        import socket  # noqa: PLC0415

        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: object, client_address: object) -> None:
        """One thread a request, and never more than a handful."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""
        log.debug("metrics_request_failed", exc_info=True)


def _handler(
    registry: CollectorRegistry,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    why: Callable[[], str],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS
        server_version = "cdrstream"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept") or "")
                self._answer(200, encode(registry), kind)
            elif path in ("/healthz", "/readyz"):
                fine = (healthy if path == "/healthz" else ready)()
                reason = why() if path == "/readyz" else ""
                no = f"no: {reason}\n" if reason else "no\n"
                self._answer(200 if fine else 503, b"ok\n" if fine else no.encode())
            else:
                self._answer(404, b"/metrics, /healthz or /readyz\n")

        do_HEAD = do_GET

        def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: a scrape every few seconds is no news."""

    return Handler
