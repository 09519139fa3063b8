"""What a process says of itself over HTTP: /metrics to Prometheus, /live and /ready to whoever starts and watches it.

``docs/monitoring.md`` describes the pages. The server answers from the moment on at which the settings are read, in
threads of its own, and only tells: nothing can be changed through it.
"""

from __future__ import annotations

import logging
import socketserver
import threading
from collections.abc import Callable
from typing import Final

from prometheus_client import MetricsHandler

from features.errors import InvalidSetting
from flows import metrics
from flows.invocation import Invocation
from flows.pulse import Vitals
from flows.settings import Settings

IMPATIENCE: Final = 10.0  # seconds in which who asks must have said what

_log = logging.getLogger(__name__)


def tell(settings: Settings, place: Invocation, vitals: Vitals) -> None:
    """Starts the server, where VIGIE_HTTP_PORT says so.

    Raises ``InvalidSetting`` where it cannot listen there, or where epochs last too long for a pulse to be felt.
    """
    metrics.PROCESSES.read(lambda: place.count)
    metrics.EPOCH_AGE.read(vitals.epoch_age)
    metrics.READY.read(lambda: vitals.unready() is None)
    if settings.http_port is None:
        return
    if place.epoch >= (stall := settings.stall_timeout.total_seconds()):
        raise InvalidSetting(
            f"VIGIE_STALL_TIMEOUT is {stall:g} s, but an epoch lasts {place.epoch:g} s (-s, or "
            "BYTEWAX_SNAPSHOT_INTERVAL): every flow would seem to stand still; set it to several times as much"
        )
    # Pods have addresses of their own.
    port = settings.http_port + (place.index if settings.pods is None else 0)
    try:
        Server(port, vitals)
    except (OSError, OverflowError) as error:
        raise InvalidSetting(
            f"VIGIE_HTTP_PORT is {settings.http_port}, but process {place.index} cannot listen at port {port} "
            f"({error}); set a port that is free, as are those after it for the processes on the same machine"
        ) from error


class Server(socketserver.ThreadingTCPServer):
    """Answers at a port of all of this machine's IPv4 addresses until it is shut down, or the process ends."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, vitals: Vitals) -> None:
        """Raises ``OSError`` where something else listens there."""
        super().__init__(("", port), Pages)
        self.reasons: dict[str, Callable[[], str | None]] = {"/live": vitals.stalled, "/ready": vitals.unready}
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Says so in the log, and not on the console."""
        _log.warning("an HTTP request from %s failed", client_address, exc_info=True)


class Pages(MetricsHandler):
    """The three pages."""

    server: Server
    timeout = IMPATIENCE

    def do_GET(self) -> None:  # noqa: N802  # the name that the library looks for
        """A reason not to say yes is a 503, with the reason as text."""
        page = self.path.partition("?")[0]
        if page == "/metrics":
            super().do_GET()
        elif (reason_of := self.server.reasons.get(page)) is None:
            self._say(404, "there are /metrics, /live and /ready")
        elif (reason := reason_of()) is None:
            self._say(200, "yes")
        else:
            self._say(503, reason)

    def _say(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
