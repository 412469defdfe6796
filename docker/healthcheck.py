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
        models: a list with one object: {"minWorkers", "workers": [{"id", "status"}, …], …}.
    """
    (model,) = models
    workers, expected = model["workers"], max(1, model["minWorkers"])
    not_ready = [f"worker {worker['id']} is {worker['status']}" for worker in workers if worker["status"] != "READY"]
    if not_ready:
        return ", ".join(not_ready)
    return f"{len(workers)} of {expected} workers are running" if len(workers) < expected else None


def find_key_file() -> Path | None:
    """Returns the newest token file, or None; a restarted container may hold older ones."""
    files = Path(os.environ.get("TMPDIR", "/tmp")).glob("ganctl-*/key_file.json")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def get(url: str, kind: str) -> bytes:
    """Returns the body of a reply; sends the token of this kind if there is a token file.

    Raises:
        urllib.error.HTTPError: the status is not 200.
        OSError: no reply came in time, or the token file cannot be read.
    """
    key_file = find_key_file()
    headers = {"Authorization": f"Bearer {json.loads(key_file.read_bytes())[kind]['key']}"} if key_file else {}
    with _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as reply:
        body: bytes = reply.read()
        return body


def describe_model(url: str) -> Any:
    """Returns the management API's description of the model; renews an expired token."""
    try:
        return json.loads(get(url, "management"))
    except urllib.error.HTTPError as error:
        if error.code != 400:  # TorchServe's status for an expired token
            raise
    get(urljoin(url, "/token?type=management"), "API")
    return json.loads(get(url, "management"))


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
