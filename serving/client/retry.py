"""Retry policy of the clients: exponential backoff with jitter."""

import random

import httpx

_RETRY_STATUSES = (429, 502, 503, 504, 507)  # a full queue of TorchServe, or the same reported by a proxy
_RAY_LOST = "Internal Server Error"  # without our description of an error: no reply of the handler
_FIRST_DELAY, _MAX_DELAY = 0.05, 2.0  # seconds


def backoff(
    outcome: httpx.Response | httpx.HTTPError, attempt: int, time_left: float, *, server_seen: bool
) -> float | None:
    """Seconds to wait before a request is repeated; None if a repetition is useless or there is no time left.

    Args:
        outcome: the reply to the last attempt, or its error.
        attempt: number of repetitions so far. The delay doubles with each, and is random so that clients that were
            refused together do not return together.
        time_left: seconds until the deadline.
        server_seen: whether the server has replied before; if not, a failed connection is not retried.
    """
    least = 0.0
    if isinstance(outcome, httpx.Response):
        # TorchServe and Ray Serve answer so if a worker dies, and start another one
        worker_died = outcome.status_code == 500 and ("Worker died" in outcome.text or outcome.text == _RAY_LOST)
        if outcome.status_code not in _RETRY_STATUSES and not worker_died:
            return None
        if (retry_after := outcome.headers.get("retry-after", "")).isdecimal():
            least = float(retry_after)
    else:
        unreachable = isinstance(outcome, httpx.ConnectError | httpx.ProxyError)
        if not isinstance(outcome, httpx.TransportError) or (unreachable and not server_seen):
            return None
    delay: float = max(least, min(_MAX_DELAY, _FIRST_DELAY * 2**attempt) * random.uniform(0.5, 1.0))
    return delay if delay < time_left else None
