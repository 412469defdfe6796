"""A request and a reply, as a host's workers pass them to the handler and back."""

from typing import NamedTuple

Inputs = dict[str, bytes | list[bytes]]  # a list if a field is repeated


def add_input(inputs: Inputs, name: str, value: bytes) -> None:
    """Adds a field of a query or a form; a repeated field becomes a list."""
    before = inputs.get(name)
    if before is None:
        inputs[name] = value
    elif isinstance(before, list):
        before.append(value)
    else:
        inputs[name] = [before, value]


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
