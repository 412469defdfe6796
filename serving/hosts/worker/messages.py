"""A request and a reply, as a host's workers pass them to the handler and back."""

from typing import NamedTuple


class PredictRequest(NamedTuple):
    """A request of a client.

    `inputs` holds the bytes of the body, as `body`, and those of each field of the query or form; a list if a field is
    repeated.
    """

    identity: bytes
    headers: dict[str, str]
    inputs: dict[str, bytes | list[bytes]]


class PredictReply(NamedTuple):
    """The reply to the request with the same identity."""

    identity: bytes
    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes
