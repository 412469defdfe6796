"""What a worker answers while the server is ending: a clean 503, after which the front end closes the connection."""

from http import HTTPStatus

from ganctl.serving.handler.problem import MEDIA_TYPE, problem
from ganctl.serving.hosts.torchserve.worker.protocol import Incoming, Outgoing

_STATUS = HTTPStatus.SERVICE_UNAVAILABLE
_BODY = problem(_STATUS, "The server is ending. Ask again, elsewhere or in a moment.")


def refuse(request: Incoming) -> Outgoing:
    """The refusal of a request, which nobody has looked at."""
    headers = {"content-type": MEDIA_TYPE, "Retry-After": "1"}
    return Outgoing(request.identity, _STATUS, _STATUS.phrase, headers, _BODY)
