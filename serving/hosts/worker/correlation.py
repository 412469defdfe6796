"""Correlation headers, echoed in the reply and logged."""

import re
from collections.abc import Mapping

# The reply's `x-request-id` belongs to TorchServe: it is the number by which the front end identifies the request.
_REPLY_HEADERS = {"x-request-id": "X-Client-Request-Id", "traceparent": "traceparent"}

_PLAIN = re.compile(r"[\x21-\x7e]{1,200}")  # allowed in a header of a reply


def correlation_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Maps a request's correlation headers to those of its reply; drops values that no header may hold."""
    return {
        _REPLY_HEADERS[name.lower()]: value
        for name, value in headers.items()
        if name.lower() in _REPLY_HEADERS and _PLAIN.fullmatch(value)
    }
