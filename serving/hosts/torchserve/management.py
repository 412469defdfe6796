"""What may be asked of TorchServe's management from outside its private folder: to read, and to renew a key.

TorchServe listens at a Unix socket in that folder, as whoever reaches its management can stop workers by `PUT`, which
no setting forbids. On the management port we answer ourselves, and pass on what changes nothing.
"""

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from ganctl.serving.client.connections import direct, without_tls
from ganctl.serving.handler.problem import MEDIA_TYPE, problem

_NAMES = ("127.0.0.1", "localhost")  # any other in `Host` is a web page's, whose name was bound to loopback


def front_end(path: Path) -> httpx.Client:
    """A client for what listens at a Unix socket; its addresses begin with `http://front-end`."""
    transport = httpx.HTTPTransport(uds=str(path), verify=without_tls(), trust_env=False)
    return direct(transport=transport, base_url="http://front-end", timeout=10.0)


class Management:
    """Answers on the management port, on loopback, until it is closed."""

    def __init__(self, port: int, path: Path) -> None:
        class Handler(_Handler):
            torchserve = front_end(path)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="management", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    torchserve: httpx.Client
    protocol_version = "HTTP/1.1"
    server_version = sys_version = ""
    timeout = 10.0  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in _NAMES:
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST, f"Host must be one of {', '.join(_NAMES)}.")
        passed = {name: self.headers[name] for name in ("Authorization",) if name in self.headers}
        try:
            reply = self.torchserve.get(self.path, headers=passed)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._refuse(HTTPStatus.BAD_GATEWAY, f"TorchServe does not answer: {error!r}")
        return self._send(reply.status_code, reply.headers.get("content-type", "application/json"), reply.content)

    def _refuse_to_change(self) -> None:
        self.close_connection = True  # a body may follow
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET: `ganctl deploy` changes what is served.")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _refuse_to_change  # noqa: N815 - by their names

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._send(status, MEDIA_TYPE, problem(status, detail))

    def _send(self, status: int, media: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as it is called
        """Nothing: the standard error is for people."""
