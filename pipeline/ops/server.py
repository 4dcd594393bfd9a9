"""Serves /metrics, /live and /ready by GET in a thread of its own; nothing else, and nothing can be changed through it.

A thread, so that it still answers when the event loop does not: that is what /live is for.
"""

import errno
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.errors import ConfigError
from pipeline.ops.health import HOLDS, Health, Verdict
from pipeline.ops.metrics import Metrics

#: A client that sends nothing keeps a thread; scrapers answer within milliseconds.
_CLIENT_TIMEOUT_S = 5.0


class OpsServer:
    """Answers on `host:port` from `start` to `stop`. port 0: any free one; `port` says which."""

    def __init__(self, metrics: Metrics, health: Health, clock: Callable[[], float], host: str, port: int) -> None:
        self._metrics, self._health, self._clock = metrics, health, clock
        self._answers = {"/metrics": self._metrics_text, "/live": self._live, "/ready": self._ready}
        try:
            self._server = _Server((host, port), _handler(self._answers))
        except OSError as error:
            raise ConfigError(_cannot_bind(host, port, error)) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="ops-server", daemon=True)

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port; idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _metrics_text(self) -> tuple[int, str, bytes]:
        now = self._clock()
        self._metrics.live.set(self._health.live(now).ok)
        self._metrics.ready.set(self._health.ready(now).ok)
        for hold in HOLDS:
            self._metrics.held.labels(hold).set(hold in self._health.holds)
        return 200, CONTENT_TYPE_LATEST, self._metrics.text()

    def _live(self) -> tuple[int, str, bytes]:
        return _verdict("live", self._health.live(self._clock()))

    def _ready(self) -> tuple[int, str, bytes]:
        return _verdict("ready", self._health.ready(self._clock()))


def _verdict(name: str, verdict: Verdict) -> tuple[int, str, bytes]:
    body = json.dumps({name: verdict.ok, "why": verdict.why}).encode() + b"\n"
    return (200 if verdict.ok else 503), "application/json", body


def _cannot_bind(host: str, port: int, error: OSError) -> str:
    where = f"metrics.host = {host!r}, metrics.port = {port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where}: the port is taken, perhaps by another worker on this machine. Give each worker its own "
            "(KIZASHI_METRICS__PORT), 0 for any free one, or switch the server off with metrics.enabled = false"
        )
    return f"{where}: cannot listen there ({error.strerror or error}). Choose an address of this machine"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up is no event of ours."""


def _handler(answers: dict[str, Callable[[], tuple[int, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT_S
        server_version, sys_version = "kizashi", ""

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            self._send(*(answer() if answer else (404, "text/plain", b"known are /metrics, /live, /ready\n")))

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # every other method, on every path
                return self._refuse
            raise AttributeError(name)

        def _refuse(self) -> None:
            self.close_connection = True  # its body, if any, stays unread
            self._send(405, "text/plain", b"only GET\n", Allow="GET")

        def _send(self, status: int, kind: str, body: bytes, **headers: str) -> None:
            self.send_response(status)
            fixed = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
                     "X-Content-Type-Options": "nosniff"}
            for name, value in (fixed | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: a scrape every few seconds is no event."""

    return Handler
