"""The management port, on loopback: GET requests only, so that no request can stop or change workers."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from ganctl.serving.handler.problem import MEDIA_TYPE, problem

_HOSTS = ("127.0.0.1", "localhost")  # another `Host` means DNS rebinding: a web page's name resolves to loopback


class ManagementReply(NamedTuple):
    """A reply of the management port."""

    status: int
    media_type: str
    body: bytes


def refusal(status: HTTPStatus, detail: str) -> ManagementReply:
    """Returns a reply that explains an error."""
    return ManagementReply(status, MEDIA_TYPE, problem(status, detail))


class Management:
    """Answers on the management port, on loopback, until it is closed.

    Args:
        port: the port.
        answer: returns the reply to a GET request, from its path and its header Authorization, "" if it has none.
    """

    def __init__(self, port: int, answer: Callable[[str, str], ManagementReply]) -> None:
        class Handler(_Handler):
            answer_get = staticmethod(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, name="management", daemon=True).start()

    def close(self) -> None:
        """Closes the port."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    answer_get: Callable[[str, str], ManagementReply]
    protocol_version = "HTTP/1.1"
    server_version = sys_version = ""
    timeout = 10.0  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in _HOSTS:
            return self._send(refusal(HTTPStatus.MISDIRECTED_REQUEST, f"Host must be one of {', '.join(_HOSTS)}."))
        return self._send(self.answer_get(self.path, self.headers.get("Authorization", "")))

    def _refuse_method(self) -> None:
        self.close_connection = True  # the request may have a body, which is not read
        detail = "Only GET: `ganctl deploy` changes the served version."
        self._send(refusal(HTTPStatus.METHOD_NOT_ALLOWED, detail))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _refuse_method  # noqa: N815 - the base class's names

    def _send(self, reply: ManagementReply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.media_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: stderr is for the user of the command."""
