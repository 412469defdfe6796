"""The marks by which a request is followed from system to system: they come back, and stand in the access log."""

import re
from collections.abc import Mapping

# `x-request-id` itself is TorchServe's: it puts its own number there, the one by which it names the request to us.
MARKS = {"x-request-id": "X-Client-Request-Id", "traceparent": "traceparent"}

_PLAIN = re.compile(r"[\x21-\x7e]{1,200}")  # what may stand in a header of a reply


def correlation_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of a request, as the headers of its reply; what cannot be a header is left out."""
    found = {}
    for name, value in headers.items():
        mark = MARKS.get(name.lower())
        if mark is not None and _PLAIN.fullmatch(value):
            found[mark] = value
    return found
