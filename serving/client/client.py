"""Asks a server for images. For one image: `Client("http://127.0.0.1:8080").sample(digits=7).images[0]`.

`AsyncClient` is the same with `async with` and `await`. Both ask again, more and more slowly and until their time is
over, where a server says that it is busy, or loses a worker: every request may be repeated.
"""

import asyncio
import time
from functools import cached_property
from types import TracebackType
from typing import Any, Unpack

import httpx

from ganctl.serving.client.core import Fields, RequestPlan, Sample, Turns
from ganctl.serving.handler.request import DESCRIPTION

__all__ = ["AsyncClient", "Client", "Sample"]


class Client(RequestPlan):
    """A connection to a server, reused from request to request; `with` closes it.

    Every method raises RemoteError where no server answers or it refuses the request.
    """

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(**self._route.options)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def sample(self, **fields: Unpack[Fields]) -> Sample:
        """Draws images one by one. `text` gives one image for each character."""
        return self._sample(self._take(self._ask(fields, "application/json")))

    def picture(self, *, media: str = "image/png", **fields: Any) -> bytes:
        """One picture of all images, or a film, as a file; `fields` as in the service: digits, text, count, scale …"""
        return self._take(self._ask(fields, media)).content

    def count_classes(self) -> int:
        """How many classes the model knows; RemoteError where it knows none."""
        return self._classes(self._take(self._ask({}, DESCRIPTION)))

    def _take(self, turns: Turns) -> httpx.Response:
        outcome: httpx.Response | httpx.HTTPError | None = None
        try:
            while True:
                turn = turns.send(outcome)
                outcome = None
                if isinstance(turn, float):
                    time.sleep(turn)
                    continue
                try:
                    outcome = self._http.send(turn)
                except httpx.HTTPError as error:
                    outcome = error
        except StopIteration as done:
            found: httpx.Response = done.value
            return found


class AsyncClient(RequestPlan):
    """The same for asyncio: `async with AsyncClient(url) as client: sample = await client.sample(digits=7)`."""

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._route.options)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def sample(self, **fields: Unpack[Fields]) -> Sample:
        """As `Client.sample`."""
        return self._sample(await self._take(self._ask(fields, "application/json")))

    async def picture(self, *, media: str = "image/png", **fields: Any) -> bytes:
        """As `Client.picture`."""
        return (await self._take(self._ask(fields, media))).content

    async def count_classes(self) -> int:
        """As `Client.count_classes`."""
        return self._classes(await self._take(self._ask({}, DESCRIPTION)))

    async def _take(self, turns: Turns) -> httpx.Response:
        outcome: httpx.Response | httpx.HTTPError | None = None
        try:
            while True:
                turn = turns.send(outcome)
                outcome = None
                if isinstance(turn, float):
                    await asyncio.sleep(turn)
                    continue
                try:
                    outcome = await self._http.send(turn)
                except httpx.HTTPError as error:
                    outcome = error
        except StopIteration as done:
            found: httpx.Response = done.value
            return found
