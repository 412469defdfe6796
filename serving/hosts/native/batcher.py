"""Draws waiting requests in batches: small ones at once on the event loop, large ones one by one in a thread."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganctl.serving.hosts.native.http_reply import defect
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


class Drawn(NamedTuple):
    """A batch that was drawn.

    `seconds` is the time that drawing took, `waited` the time that its first request had waited until then.
    """

    replies: "Sequence[Reply]"
    observation: "Observation"
    seconds: float
    waited: float | None


log = logging.getLogger(__name__)


class Refused(Exception):
    """Too many large requests wait."""


class Answer(NamedTuple):
    """A reply with all its headers, and the number of requests in its batch."""

    status: int
    headers: dict[str, str]
    body: bytes
    batch_size: int


Respond = Callable[[Answer], None]


class _Waiting(NamedTuple):
    model: NativeModel
    request: "Request"
    respond: Respond
    since: float  # seconds


class Batcher:
    """Answers the requests to one model."""

    def __init__(
        self, model: Callable[[], NativeModel], executor: ThreadPoolExecutor, drawn: Callable[[Drawn], None]
    ) -> None:
        """Prepares an empty queue.

        Args:
            model: returns the model that is served now.
            executor: draws large requests; it has one thread.
            drawn: is called after each batch.
        """
        self._model, self._executor, self._drawn = model, executor, drawn
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

    def answer(self, inputs: Inputs, headers: Mapping[str, str], respond: Respond) -> None:
        """Answers one request: calls `respond` now or later, with status 500 if a defect keeps it from being drawn.

        Raises:
            Refused: too many large requests wait.
        """
        model = self._model()
        parsed = model.service.parse(inputs, headers)
        if not model.is_request(parsed):
            respond(self._draw(model, [parsed], waited=None)[0])
        elif (size := model.service.cost(parsed)) <= _MAX_SMALL:
            if not self._waiting:
                self._loop.call_soon(self._draw_when_complete, 0)
            self._waiting.append(_Waiting(model, parsed, respond, time.perf_counter()))
        else:
            self._draw_large(model, parsed, size, respond)

    def _draw_when_complete(self, known: int) -> None:
        """Draws what waits as soon as a round of the event loop brings no request that was not `known`.

        A round costs microseconds, but accepts one new connection only.
        """
        if known < len(self._waiting) < MAX_IMAGES:
            self._loop.call_soon(self._draw_when_complete, len(self._waiting))
        else:
            self._draw_batch()

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
            self._loop.call_soon(self._draw_when_complete, 0)
        try:
            waited = time.perf_counter() - batch[0].since
            answers = self._draw(model, [each.request for each in batch], waited=waited)
        except Exception:  # whatever it is, each client gets a reply
            log.exception("a defect made a batch of %d requests fail", len(batch))
            answers = [_failure(len(batch)) for _ in batch]
        for each, answer in zip(batch, answers, strict=True):
            try:
                each.respond(answer)
            except Exception:  # of one connection; the others get their replies
                log.exception("a defect kept a reply from being sent")

    def _draw_large(self, model: NativeModel, request: "Request", size: float, respond: Respond) -> None:
        reservation = contextlib.ExitStack()
        reservation.enter_context(self._reserve(size))
        since = time.perf_counter()

        def finish(drawing: asyncio.Future[Drawn]) -> None:
            reservation.close()
            try:
                answer = self._report(model, drawing.result())[0]
            except Exception:  # whatever it is, the client gets a reply
                log.exception("a defect made a large request fail")
                answer = _failure(1)
            respond(answer)

        self._loop.run_in_executor(self._executor, _draw_one, model, request, since).add_done_callback(finish)

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

    def _draw(self, model: NativeModel, batch: "Sequence[Request | Reply]", waited: float | None) -> list[Answer]:
        started = time.perf_counter()
        replies = model.service.draw(batch)
        seconds = time.perf_counter() - started
        return self._report(model, Drawn(replies, model.service.observation, seconds, waited))

    def _report(self, model: NativeModel, drawn: Drawn) -> list[Answer]:
        """Returns the answers of a batch, after it was counted."""
        self._drawn(drawn)
        headers = model.service.http_headers
        return [Answer(reply.status, headers(reply), reply.body, len(drawn.replies)) for reply in drawn.replies]


def _failure(batch_size: int) -> Answer:
    return Answer(*defect(), batch_size)


def _draw_one(model: NativeModel, request: "Request", since: float) -> Drawn:
    """Draws a large request, which has waited since then."""
    started = time.perf_counter()
    replies = model.large_service.draw([request])
    return Drawn(replies, model.large_service.observation, time.perf_counter() - started, started - since)
