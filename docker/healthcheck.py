"""The serving image's health check: exit 0 when every worker of the model is READY, else 1 with one line that says why.

    healthcheck.py [URL]        default: $GANCTL_HEALTH_URL, or http://127.0.0.1:8081/models/digits

The management API is asked, because TorchServe's own /ping answers 200 while the model loads and while its workers
crash. Standard library only: it runs every few seconds, in an interpreter that skips site-packages.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8081/models/digits"
TIMEOUT_SECONDS = 3.0  # less than the HEALTHCHECK's own 5, so that the reason is told before the check is killed


def fault(models: Any) -> str | None:
    """Says why the management API's reply about one model does not mean healthy; None where it does.

    `models` is a list with one object per version: {"modelVersion", "minWorkers", "workers": [{"id", "status"}, …]}.
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


def check(url: str) -> str | None:
    """Asks the management API at `url`; the reason for not being healthy, or None."""
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    # An empty ProxyHandler: a proxy in the container's environment must not be asked for the container's own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as reply:
            return fault(json.load(reply))
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code} {error.reason}"
    except OSError as error:  # nobody listens yet, or nobody answers in time
        return f"{url}: {getattr(error, 'reason', error)}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{url} answers what no TorchServe would ({type(error).__name__}: {error})"


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("GANCTL_HEALTH_URL", DEFAULT_URL)
    reason = check(url)
    print(reason or "all workers are READY")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
