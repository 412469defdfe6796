"""Health check of the serving image: exit status 0 if every worker is READY, else 1 with the reason in one line.

    healthcheck.py [URL]        default: $GANCTL_HEALTH_URL, or http://127.0.0.1:8081/models/digits

It calls the management API, because TorchServe's /ping returns 200 while the model loads and while workers crash. If
the server demands tokens, it reads them from the server's private folder and renews them: they are valid for an hour.
Standard library only, because it runs every few seconds, in an interpreter without site-packages.
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
TIMEOUT_SECONDS = 2.0  # twice this is below HEALTHCHECK's limit of 5, after which no reason is printed

# No proxies: a proxy in the container's environment cannot reach the container's own loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def unhealthy_reason(models: Any) -> str | None:
    """Returns why the management API's description of a model is unhealthy, or None.

    Args:
        models: a list with an object for each version: {"minWorkers", "workers": [{"id", "status"}, …], …}.
    """
    if not isinstance(models, list) or not models:
        return "the management API: found no model, expected one"
    for model in models:
        workers = model["workers"]
        not_ready = [
            f"worker {worker['id']} is {worker['status']}" for worker in workers if worker["status"] != "READY"
        ]
        if not_ready:
            return ", ".join(not_ready)
        if len(workers) < max(1, model["minWorkers"]):
            return f"{len(workers)} of {max(1, model['minWorkers'])} workers are running"
    return None


def get(url: str, key: str | None) -> bytes:
    """Returns the body. Raises urllib.error.HTTPError unless the status is 200, OSError if no reply comes in time."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as reply:
        body: bytes = reply.read()
        return body


def find_key_file() -> Path | None:
    """Returns the newest token file, or None; a restarted container may hold older ones."""
    files = Path(os.environ.get("TMPDIR", "/tmp")).glob("ganctl-*/key_file.json")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def describe_model(url: str) -> Any:
    """Returns the management API's description of the model; uses the token, if any, and renews an expired one."""
    key_file = find_key_file()
    if key_file is None:
        return json.loads(get(url, None))
    try:
        return json.loads(get(url, json.loads(key_file.read_bytes())["management"]["key"]))
    except urllib.error.HTTPError as error:
        if error.code != 400:  # TorchServe's status for an expired token
            raise
    get(urljoin(url, "/token?type=management"), json.loads(key_file.read_bytes())["API"]["key"])
    return json.loads(get(url, json.loads(key_file.read_bytes())["management"]["key"]))


def check(url: str) -> str | None:
    """Returns the reason for being unhealthy, or None."""
    try:
        return unhealthy_reason(describe_model(url))
    except urllib.error.HTTPError as error:
        return f"{error.url} answers {error.code} {error.reason}"
    except OSError as error:  # the server does not listen yet or is too slow, or the tokens cannot be read
        return f"{url}: {getattr(error, 'reason', error)}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{url}: found no valid reply of TorchServe ({type(error).__name__}: {error})"


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
