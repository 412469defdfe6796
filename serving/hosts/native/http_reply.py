"""The paths of a model, a complete HTTP reply, and the reply to a request that is refused."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from ganctl.serving.handler.problem import MEDIA_TYPE, problem

_YEAR = "public, max-age=31536000, immutable"


class HttpReply(NamedTuple):
    """A complete reply."""

    status: int
    headers: dict[str, str]
    body: bytes


def model_paths(name: str) -> tuple[str, str, str]:
    """Returns the paths of a model; the first one may have the model's version at its end."""
    return f"/predictions/{name}", f"/{name}/predict", f"/models/{name}/invoke"


def cache_control(headers: Mapping[str, str], is_immutable: bool) -> str:
    """Returns the header Cache-Control of a drawn reply.

    Args:
        headers: of the reply; without an ETag the images are random.
        is_immutable: whether the path names the version; at another path the images may change with the version.
    """
    return "no-store" if "ETag" not in headers else _YEAR if is_immutable else "no-cache"


def refusal(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> HttpReply:
    """Returns a reply that explains an error (RFC 9457)."""
    return HttpReply(status, {"content-type": MEDIA_TYPE, **(headers or {})}, problem(status, detail))


def defect() -> HttpReply:
    """Returns the reply to a request that a defect of ours made fail."""
    return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "A defect in the service; see its log.")
