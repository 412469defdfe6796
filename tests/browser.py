"""Serves a folder, and drives a headless Chromium over the pipe of its DevTools protocol."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH; Debian: apt-get install chromium")

# Chromium reads commands from the file descriptor 3 and writes replies to 4
_CONNECT = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "Enter": 13, " ": 32}


class Page:
    """A page in Chromium. `console` holds errors of scripts and violations of the content security policy."""

    def __init__(self, reading: int, writing: int) -> None:
        self._read, self._write = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
        self._buffer, self._id = b"", 0
        self._session: dict[str, str] = {}
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> Any:
        """Sends a command, and returns its result."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params, **self._session}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (reply := self._receive()).get("id") != self._id:
            self._note(reply)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    def open(self, url: str) -> None:
        """Opens a URL, and waits until the document and its modules have run."""
        self.command("Page.navigate", url="about:blank")
        self.command("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Evaluates a JavaScript expression, waits for its promise, and returns its JSON value."""
        reply = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        done = f"""new Promise((resolve) => {{
            const look = () => ({condition}) ? resolve(true) : setTimeout(look, 20);
            setTimeout(resolve, {PATIENCE * 1000}, false);
            look();
        }})"""
        assert self.evaluate(done), f"{condition} did not come true; the console says {self.console}"

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drags from one point of the viewport to another with the left button."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def click(self, selector: str) -> None:
        """Clicks on the middle of an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})")
        self.drag((x, y), (x, y))

    def download_to(self, folder: Path) -> None:
        """Saves downloads to a folder."""
        self.command("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def close(self) -> None:
        """Ends Chromium."""
        self.command("Browser.close")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read.fileno(), 1 << 16)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        received: dict[str, Any] = json.loads(message)
        return received

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                self.console.append(details.get("exception", details).get("description", details["text"]))
            case "Log.entryAdded":
                self.console.append(event["params"]["entry"]["text"])
            case "Runtime.consoleAPICalled" if event["params"]["type"] in ("error", "warning", "assert"):
                self.console.append(str(event["params"]["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Page]:
    """Runs Chromium with an empty profile and yields its page."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()  # in this order: the last of four is never 3
    ends = to_browser[0], from_browser[1]
    command = [sys.executable, "-S", "-c", _CONNECT, *map(str, ends), CHROMIUM]
    command += ["--remote-debugging-pipe", "--headless=new", "--no-sandbox", "--disable-gpu", *flags]
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--user-data-dir={profile}"], stderr=log, pass_fds=ends)
    for end in ends:
        os.close(end)
    try:
        page = Page(from_browser[0], to_browser[1])
        yield page
        page.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)


class _StaticFiles(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, headers_by_suffix: dict[str, dict[str, str]], **options: Any) -> None:
        self._headers_by_suffix = headers_by_suffix
        super().__init__(*arguments, **options)

    def end_headers(self) -> None:
        for suffix, headers in self._headers_by_suffix.items():
            if self.path.partition("?")[0].endswith(suffix):
                for name, value in headers.items():
                    self.send_header(name, value)
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:  # the default writes to stderr
        pass


@contextmanager
def static_server(folder: Path, headers_by_suffix: dict[str, dict[str, str]] | None = None) -> Iterator[str]:
    """Serves the files of a folder on the loopback address, as `python -m http.server` does; yields the URL.

    Args:
        folder: its index.html is the answer to `/`.
        headers_by_suffix: further headers for the paths with a suffix.
    """
    handler = partial(_StaticFiles, directory=str(folder), headers_by_suffix=headers_by_suffix or {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
