"""The readiness of the Open Inference Protocol tells load balancers to send no more requests to a draining worker."""

import asyncio
from typing import cast

import pytest

from ganctl.serving.hosts.native.access import Access
from ganctl.serving.hosts.native.application import Application
from ganctl.serving.hosts.native.batcher import Batcher
from ganctl.serving.hosts.native.connection import HttpRequest
from ganctl.serving.hosts.native.http_reply import HttpReply


def status(path: str, *, draining: bool) -> int:
    """The status of the reply to GET `path` of a worker with the model `digits`."""

    async def ask() -> int:
        batchers = {"digits": cast(Batcher, object())}  # the paths of readiness use no batcher
        application = Application(batchers, count=lambda status: None, access=Access())
        application.closing = draining
        replied: asyncio.Future[HttpReply] = asyncio.get_running_loop().create_future()
        request = HttpRequest("GET", path, b"", {}, b"", peer=None, is_last=False)
        application.answer(request, replied.set_result)
        return (await replied).status

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/digits/ready"])
def test_a_draining_worker_is_not_ready(path: str) -> None:
    assert status(path, draining=False) == 200
    assert status(path, draining=True) == 503


def test_a_draining_worker_is_alive() -> None:
    assert status("/v2/health/live", draining=True) == 200
