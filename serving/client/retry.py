"""When a client asks again, and when it gives up."""

import random

import httpx

_BUSY = (429, 502, 503, 504, 507)  # TorchServe's full queue, or a proxy's way to say the same
_FIRST, _LONGEST = 0.05, 2.0  # seconds


def pause(outcome: httpx.Response | httpx.HTTPError, attempt: int, left: float, *, known: bool) -> float | None:
    """Seconds to wait before a request is repeated; None where that is no use, or there is no time.

    Args:
        outcome: what came of it.
        attempt: how often it was repeated already; each time the pause is twice as long, and random, so that clients
            which were refused together do not come back together.
        left: seconds until the deadline.
        known: whether the server has answered before: else there may be none.
    """
    if isinstance(outcome, httpx.Response):
        if outcome.status_code not in _BUSY and not _has_lost_its_worker(outcome):
            return None
        wanted = outcome.headers.get("retry-after", "")
        least = float(wanted) if wanted.isdecimal() else 0.0
    else:
        unreached = isinstance(outcome, httpx.ConnectError | httpx.ProxyError)
        if not isinstance(outcome, httpx.TransportError) or (unreached and not known):
            return None
        least = 0.0
    seconds: float = max(least, min(_LONGEST, _FIRST * 2**attempt) * random.uniform(0.5, 1.0))
    return seconds if seconds < left else None


def _has_lost_its_worker(reply: httpx.Response) -> bool:
    """What TorchServe says of requests that a worker took with it; another one is started."""
    return reply.status_code == 500 and "Worker died" in reply.text
