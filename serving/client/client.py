"""Synchronous and asynchronous clients of a server: `Client("http://127.0.0.1:8080").sample(digits=7).images[0]`.

`AsyncClient` has the same methods, to use with `async with` and `await`. If the server is busy or loses a worker, both
repeat the request with growing delays until the timeout. A repetition is safe, since requests have no side effects.
"""

import asyncio
import time
from functools import cached_property
from types import TracebackType
from typing import Any, Unpack

import httpx

from ganctl.serving.client.core import BaseClient, Fields, RequestFlow, Sample
from ganctl.serving.handler.request import OPENAPI_TYPE

__all__ = ["AsyncClient", "Client", "Sample"]


class Client(BaseClient):
    """A synchronous client whose connection is reused between requests; `with` closes it.

    Every method that sends a request raises RemoteError if no server replies or the server refuses the request.
    """

    @cached_property
    def _http(self) -> httpx.Client:
        options = {"transport": self.transport} if self.transport else self._route.options
        return httpx.Client(**options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def sample(self, **fields: Unpack[Fields]) -> Sample:
        """Draw single images. `text` gives one image for each character."""
        return self._decode_sample(self._send(self._request_flow(fields, "application/json")))

    def picture(self, *, media: str = "image/png", **fields: Any) -> bytes:
        """Draw one picture with all images, or a film, and return the file's bytes.

        Args:
            media: the media type of the file.
            fields: the fields of the service: digits, text, count, scale, …
        """
        return self._send(self._request_flow(fields, media)).content

    def count_classes(self) -> int:
        """Return the model's number of classes. Raises RemoteError for an unconditional model."""
        return self._decode_class_count(self._send(self._request_flow({}, OPENAPI_TYPE)))

    def _send(self, flow: RequestFlow) -> httpx.Response:
        """Run the flow: send its requests and sleep."""
        outcome: httpx.Response | httpx.HTTPError | None = None
        try:
            while True:
                step = flow.send(outcome)
                outcome = None
                if isinstance(step, float):
                    time.sleep(step)
                    continue
                try:
                    outcome = self._http.send(step)
                except httpx.HTTPError as error:
                    outcome = error
        except StopIteration as stop:
            reply: httpx.Response = stop.value
            return reply


class AsyncClient(BaseClient):
    """An asyncio client: `async with AsyncClient(url) as client: sample = await client.sample(digits=7)`."""

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        options = {"transport": self.transport} if self.transport else self._route.options
        return httpx.AsyncClient(**options)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client.close`."""
        await self._http.aclose()

    async def sample(self, **fields: Unpack[Fields]) -> Sample:
        """See `Client.sample`."""
        return self._decode_sample(await self._send(self._request_flow(fields, "application/json")))

    async def picture(self, *, media: str = "image/png", **fields: Any) -> bytes:
        """See `Client.picture`."""
        return (await self._send(self._request_flow(fields, media))).content

    async def count_classes(self) -> int:
        """See `Client.count_classes`."""
        return self._decode_class_count(await self._send(self._request_flow({}, OPENAPI_TYPE)))

    async def _send(self, flow: RequestFlow) -> httpx.Response:
        """Run the flow: send its requests and sleep."""
        outcome: httpx.Response | httpx.HTTPError | None = None
        try:
            while True:
                step = flow.send(outcome)
                outcome = None
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                try:
                    outcome = await self._http.send(step)
                except httpx.HTTPError as error:
                    outcome = error
        except StopIteration as stop:
            reply: httpx.Response = stop.value
            return reply
