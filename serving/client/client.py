"""Synchronous and asynchronous clients of a server: `Client("http://127.0.0.1:8080").sample(digits=7).images[0]`.

`AsyncClient` has the same methods, to use with `async with` and `await`. If the server is busy or loses a worker, both
repeat the request with growing delays until the timeout. A repetition is safe, since requests have no side effects.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cached_property
from typing import Any, Unpack

import httpx

from ganctl.serving.client.core import BaseClient, Description, Fields, Sample
from ganctl.serving.handler.request import OPENAPI_TYPE


class Client(BaseClient, AbstractContextManager["Client"]):
    """A synchronous client whose connection is reused between requests; `with` closes it.

    Every method that sends a request raises RemoteError if no server replies or the server refuses the request.
    """

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(**self._options)

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def sample(self, **fields: Unpack[Fields]) -> Sample:
        """Draw single images. `text` gives one image for each character."""
        return self._decode_sample(self._request(fields, "application/json"))

    def picture(self, *, media: str = "image/png", **fields: Any) -> bytes:
        """Draw one picture with all images, or an animation, and return the file's bytes.

        Args:
            media: the media type of the file.
            fields: the fields of the service: digits, text, count, scale, …
        """
        return self._request(fields, media).content

    def describe(self) -> Description:
        """Return the model's version and classes, and the largest request."""
        return self._decode_description(self._request({}, OPENAPI_TYPE))

    def count_classes(self) -> int:
        """Return the model's number of classes. Raises RemoteError for an unconditional model."""
        return self._count_classes(self.describe())

    def max_count(self) -> int:
        """Return the largest number of images that the server draws for one request."""
        return self.describe().max_count

    def _request(self, fields: Mapping[str, Any], media: str) -> httpx.Response:
        async def send(request: httpx.Request) -> httpx.Response:
            return self._http.send(request)

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)

        try:  # these functions never wait for an event loop, so the coroutine ends at once
            self._request_with_retries(fields, media, send, sleep).send(None)
        except StopIteration as end:
            reply: httpx.Response = end.value
            return reply
        raise AssertionError("the coroutine waits for an event loop")


class AsyncClient(BaseClient, AbstractAsyncContextManager["AsyncClient"]):
    """An asyncio client: `async with AsyncClient(url) as client: sample = await client.sample(digits=7)`."""

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._options)

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client.close`."""
        await self._http.aclose()

    async def sample(self, **fields: Unpack[Fields]) -> Sample:
        """See `Client.sample`."""
        return self._decode_sample(await self._request(fields, "application/json"))

    async def picture(self, *, media: str = "image/png", **fields: Any) -> bytes:
        """See `Client.picture`."""
        return (await self._request(fields, media)).content

    async def describe(self) -> Description:
        """See `Client.describe`."""
        return self._decode_description(await self._request({}, OPENAPI_TYPE))

    async def count_classes(self) -> int:
        """See `Client.count_classes`."""
        return self._count_classes(await self.describe())

    async def max_count(self) -> int:
        """See `Client.max_count`."""
        return (await self.describe()).max_count

    async def _request(self, fields: Mapping[str, Any], media: str) -> httpx.Response:
        return await self._request_with_retries(fields, media, self._http.send, asyncio.sleep)
