"""A complete HTTP reply, and the reply to a request that is refused."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from ganctl.serving.handler.problem import MEDIA_TYPE, problem


class HttpReply(NamedTuple):
    """A complete reply."""

    status: int
    headers: dict[str, str]
    body: bytes


def refusal(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> HttpReply:
    """Returns a reply that explains an error (RFC 9457)."""
    return HttpReply(status, {"content-type": MEDIA_TYPE, **(headers or {})}, problem(status, detail))


def defect() -> HttpReply:
    """Returns the reply to a request that a defect of ours made fail."""
    return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "A defect in the service; see its log.")
