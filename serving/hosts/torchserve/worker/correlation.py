"""Correlation headers, echoed in the reply and logged."""

import re
from collections.abc import Mapping

# The reply's `x-request-id` belongs to TorchServe: it is the number by which the front end identifies the request.
CORRELATION_HEADERS = {"x-request-id": "X-Client-Request-Id", "traceparent": "traceparent"}

_PLAIN = re.compile(r"[\x21-\x7e]{1,200}")  # allowed in a header of a reply


def correlation_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Maps a request's correlation headers to those of its reply; drops values that no header may hold."""
    correlation = {}
    for name, value in headers.items():
        reply_name = CORRELATION_HEADERS.get(name.lower())
        if reply_name is not None and _PLAIN.fullmatch(value):
            correlation[reply_name] = value
    return correlation
