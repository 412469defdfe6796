"""A server for the tests of `ganctl bench serve`: `python tiny_server.py [SECONDS] --port PORT`.

It replies with a PNG after SECONDS, and with 503 to a POST for the digit 3. Its child process ignores SIGTERM, like a
worker that hangs.
"""

import io
import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

_IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
_file = io.BytesIO()
Image.new("L", (28, 28)).save(_file, "PNG")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(503 if body.get("digits") == 3 else 200)

    def _answer(self, status: int) -> None:
        time.sleep(float(sys.argv[1]) if sys.argv[1] != "--port" else 0)
        self.send_response(status)
        self.send_header("content-length", str(len(_file.getvalue())))
        self.end_headers()
        self.wfile.write(_file.getvalue())

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Ignores clients that disconnect, as the load generator does at its end."""


if __name__ == "__main__":
    subprocess.Popen([sys.executable, "-c", _IGNORES_SIGTERM])
    Server(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
