"""Read-only proxy of TorchServe's management API on the management port; it also passes token renewals on.

TorchServe's own API listens on a Unix socket in the server's private folder, because no setting forbids `PUT`, which
can stop workers. The proxy forwards GET requests only.
"""

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from ganctl.serving.client.connections import empty_ssl_context, local_client
from ganctl.serving.handler.problem import MEDIA_TYPE, problem

_HOSTS = ("127.0.0.1", "localhost")  # another `Host` means DNS rebinding: a web page's name resolves to loopback


def front_end_client(path: Path) -> httpx.Client:
    """An HTTP client for the Unix socket `path`; its base URL is `http://front-end`."""
    transport = httpx.HTTPTransport(uds=str(path), verify=empty_ssl_context(), trust_env=False)
    return local_client(transport=transport, base_url="http://front-end", timeout=10.0)


class Management:
    """Answers on the management port, on loopback, until it is closed.

    Args:
        port: the port.
        path: the Unix socket of TorchServe's management API.
    """

    def __init__(self, port: int, path: Path) -> None:
        class Handler(_Handler):
            torchserve = front_end_client(path)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, name="management", daemon=True).start()

    def close(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    torchserve: httpx.Client
    protocol_version = "HTTP/1.1"
    server_version = sys_version = ""
    timeout = 10.0  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in _HOSTS:
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST, f"Host must be one of {', '.join(_HOSTS)}.")
        headers = {"Authorization": token} if (token := self.headers.get("Authorization")) else {}
        try:
            reply = self.torchserve.get(self.path, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._refuse(HTTPStatus.BAD_GATEWAY, f"TorchServe does not answer: {error!r}")
        return self._send(reply.status_code, reply.headers.get("content-type", "application/json"), reply.content)

    def _refuse_method(self) -> None:
        self.close_connection = True  # the request may have a body, which is not read
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET: `ganctl deploy` changes the served version.")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _refuse_method  # noqa: N815 - the base class's names

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._send(status, MEDIA_TYPE, problem(status, detail))

    def _send(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: stderr is for the user of the command."""
