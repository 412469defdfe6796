"""The serving image's health check: exit 0 when every worker of the model is READY, else 1 with one line that says why.

    healthcheck.py [URL]        default: $GANCTL_HEALTH_URL, or http://127.0.0.1:8081/models/digits

The management API is asked, because TorchServe's own /ping answers 200 while the model loads and while its workers
crash. Where the server demands tokens, they are read from its private folder, and renewed: they end after an hour.
Standard library only: it runs every few seconds, in an interpreter that skips site-packages.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

DEFAULT_URL = "http://127.0.0.1:8081/models/digits"
TIMEOUT_SECONDS = 2.0  # twice that is less than the HEALTHCHECK's own 5: the reason is told before the check is killed

# No proxies: one in the container's environment must not be asked for the container's own loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fault(models: Any) -> str | None:
    """Says why the management API's reply about one model does not mean healthy; None where it does.

    `models` is a list with one object per version: {"minWorkers", "workers": [{"id", "status"}, …], …}.
    """
    if not isinstance(models, list) or not models:
        return "the management API names no model"
    for model in models:
        workers = model["workers"]
        waiting = [f"worker {worker['id']} is {worker['status']}" for worker in workers if worker["status"] != "READY"]
        if waiting:
            return ", ".join(waiting)
        if len(workers) < max(1, model["minWorkers"]):
            return f"{len(workers)} of {max(1, model['minWorkers'])} workers are there"
    return None


def get(url: str, key: str | None) -> bytes:
    """The body of a 200. Raises urllib.error.HTTPError for another status, OSError where nobody answers in time."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as reply:
        body: bytes = reply.read()
        return body


def find_key_file() -> Path | None:
    """The tokens of the running server: the newest, as a restarted container may hold those of the server before it."""
    files = Path(os.environ.get("TMPDIR", "/tmp")).glob("ganctl-*/key_file.json")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def describe_model(url: str) -> Any:
    """What the management API says of the model, asked with a token, renewed if need be, where there are tokens."""
    key_file = find_key_file()
    if key_file is None:
        return json.loads(get(url, None))
    try:
        return json.loads(get(url, json.loads(key_file.read_bytes())["management"]["key"]))
    except urllib.error.HTTPError as error:
        if error.code != 400:  # TorchServe's status for a token that has ended
            raise
    get(urljoin(url, "/token?type=management"), json.loads(key_file.read_bytes())["API"]["key"])
    return json.loads(get(url, json.loads(key_file.read_bytes())["management"]["key"]))


def check(url: str) -> str | None:
    """The reason for not being healthy, or None."""
    try:
        return fault(describe_model(url))
    except urllib.error.HTTPError as error:
        return f"{error.url} answers {error.code} {error.reason}"
    except OSError as error:  # nobody listens yet, nobody answers in time, or the tokens cannot be read
        return f"{url}: {getattr(error, 'reason', error)}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{url} answers what no TorchServe would ({type(error).__name__}: {error})"


def main() -> int:
    variable = os.environ.get("GANCTL_HEALTH_URL")
    url = sys.argv[1] if len(sys.argv) > 1 else variable or DEFAULT_URL
    if url.startswith(("http://", "https://")):
        reason = check(url)
    else:
        name = "URL" if len(sys.argv) > 1 else "GANCTL_HEALTH_URL"
        reason = f"{name}: found {url!r}, expected an address such as {DEFAULT_URL}"
    print(reason or "all workers are READY")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
