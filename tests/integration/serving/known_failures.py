"""Requests for which TorchServe's own HTTP layer replies with a 5xx, before the handler (docs/service.md)."""

import json

# By the name that TorchServe gives in the reply's `type`.
KNOWN = {
    "ErrorDataDecoderException": "a form that cannot be decoded: a bad percent-encoding, a field without a name, …",
    "StringIndexOutOfBoundsException": "a multipart form with an empty boundary",
    "ArrayIndexOutOfBoundsException": "a path without a slash; a line without a colon among a part's headers",
}


def is_known(status: int, body: bytes) -> bool:
    """Whether a reply is one of those."""
    if status != 500:
        return False
    try:
        return json.loads(body).get("type") in KNOWN
    except (ValueError, AttributeError):
        return False
