"""Requests to which TorchServe's own HTTP layer replies with a 5xx, before the handler (docs/service.md)."""

import json

# The `type` in TorchServe's reply → the requests that cause it.
KNOWN = {
    "ErrorDataDecoderException": "a form that cannot be decoded: a bad percent-encoding, a field without a name, …",
    "StringIndexOutOfBoundsException": "a multipart form with an empty boundary",
    "ArrayIndexOutOfBoundsException": "a path without a slash; a line without a colon among a part's headers",
}


def is_known(status: int, body: bytes) -> bool:
    """Returns whether a reply is one of the known failures."""
    if status != 500:
        return False
    try:
        return json.loads(body).get("type") in KNOWN
    except (ValueError, AttributeError):
        return False
