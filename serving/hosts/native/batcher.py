"""Draws waiting requests in batches: small ones at once on the event loop, large ones one by one in a thread."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganctl.serving.hosts.native.model import NativeModel
from ganctl.serving.hosts.worker.messages import Inputs

if TYPE_CHECKING:
    from ganctl.serving.handler.engine import Inputs as EngineInputs
    from ganctl.serving.handler.model import Model
    from ganctl.serving.handler.replies import Reply
    from ganctl.serving.handler.request import Request
    from ganctl.serving.handler.service import Observation

MAX_IMAGES = 64  # of a batch of small requests, so that none waits long for the others
_MAX_SMALL = 1 / 32  # of the largest allowed request; above, a request is large
_MAX_LARGE = 8.0  # total size of the large requests that may wait, in units of the largest allowed one

Answered = Callable[["Sequence[Reply]", "Observation", float], None]  # replies, measurements, seconds of a batch


class Refused(Exception):
    """Too many large requests wait."""


class Answer(NamedTuple):
    """A reply with all its headers, and the number of requests in its batch."""

    status: int
    headers: dict[str, str]
    body: bytes
    batch_size: int


class _Waiting(NamedTuple):
    model: NativeModel
    request: "Request"
    answer: asyncio.Future[Answer]


class Batcher:
    """Answers the requests to one model."""

    def __init__(self, model: Callable[[], NativeModel], executor: ThreadPoolExecutor, answered: Answered) -> None:
        """Prepares an empty queue.

        Args:
            model: returns the model that is served now.
            executor: draws large requests; it has one thread.
            answered: is called after each batch.
        """
        self._model, self._executor, self._answered = model, executor, answered
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._large = 0.0  # total size of the large requests that wait

    @property
    def interface(self) -> "Model":
        """The interface of the model that is served now, with the limits of a request."""
        return self._model().service.model

    @property
    def version(self) -> str:
        """The version of the model that is served now."""
        return self.interface.version

    async def generate(self, inputs: "EngineInputs") -> NDArray[np.uint8]:
        """Generates the images of given latents in the thread of large requests, uint8 [N, C, H, W].

        Raises:
            Refused: too many large requests wait.
        """
        model = self._model()
        size = len(inputs["z"]) / model.service.model.max_count
        with self._reserve(size):
            images = await self._loop.run_in_executor(self._executor, model.service.engine.generate, inputs)
        return images.transpose(0, 3, 1, 2)

    async def answer(self, inputs: Inputs, headers: Mapping[str, str]) -> Answer:
        """Answers one request.

        Raises:
            Refused: too many large requests wait.
        """
        model = self._model()
        parsed = model.service.parse(inputs, headers)
        if model.is_request(parsed):
            size = model.service.cost(parsed)
            return await (
                self._draw_small(model, parsed) if size <= _MAX_SMALL else self._draw_large(model, parsed, size)
            )
        return self._finish(model, [parsed], time.perf_counter())[0]

    def _draw_small(self, model: NativeModel, request: "Request") -> asyncio.Future[Answer]:
        if not self._waiting:
            self._loop.call_soon(self._draw_batch)  # after all requests that have arrived by now
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(_Waiting(model, request, answer))
        return answer

    def _draw_batch(self) -> None:
        """Draws the requests that wait, up to MAX_IMAGES; further ones after the replies were sent."""
        batch: list[_Waiting] = []
        images = 0
        model = self._waiting[0].model
        while self._waiting and self._waiting[0].model is model:
            images += self._waiting[0].request.images
            if batch and images > MAX_IMAGES:
                break
            batch.append(self._waiting.popleft())
        if self._waiting:
            self._loop.call_soon(self._draw_batch)
        try:
            answers = self._finish(model, [each.request for each in batch], time.perf_counter())
        except Exception as error:  # a defect fails this batch, and each request gets its 500
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each, answer in zip(batch, answers, strict=True):
            if not each.answer.done():  # cancelled, because the worker stops
                each.answer.set_result(answer)

    async def _draw_large(self, model: NativeModel, request: "Request", size: float) -> Answer:
        started = time.perf_counter()
        with self._reserve(size):
            reply, observation = await self._loop.run_in_executor(self._executor, _draw_one, model, request)
        return self._count(model, [reply], observation, started)[0]

    @contextlib.contextmanager
    def _reserve(self, size: float) -> Iterator[None]:
        """Counts a large request while it waits and is drawn; raises Refused if there are too many."""
        if self._large + size > _MAX_LARGE:
            raise Refused
        self._large += size
        try:
            yield
        finally:
            self._large -= size

    def _finish(self, model: NativeModel, batch: "Sequence[Request | Reply]", started: float) -> list[Answer]:
        return self._count(model, model.service.draw(batch), model.service.observation, started)

    def _count(
        self, model: NativeModel, replies: "Sequence[Reply]", observation: "Observation", started: float
    ) -> list[Answer]:
        self._answered(replies, observation, time.perf_counter() - started)
        headers = model.service.http_headers
        return [Answer(reply.status, headers(reply), reply.body, len(replies)) for reply in replies]


def _draw_one(model: NativeModel, request: "Request") -> "tuple[Reply, Observation]":
    (reply,) = model.large_service.draw([request])
    return reply, model.large_service.observation
