"""Answers the requests of a worker's connections: paths, methods, keys and headers around the handler's replies."""

import asyncio
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from http import HTTPStatus

from ganctl.serving.hosts.native.access import ALLOW, METHODS, Access
from ganctl.serving.hosts.native.batcher import Answer, Batcher, Refused
from ganctl.serving.hosts.native.connection import HttpRequest, Respond
from ganctl.serving.hosts.native.http_reply import HttpReply, cache_control, defect, model_paths, refusal
from ganctl.serving.hosts.native.inputs import InputError, read_inputs
from ganctl.serving.hosts.native.open_inference import OpenInference
from ganctl.serving.hosts.native.proxies import Proxies
from ganctl.serving.hosts.worker.access_log import AccessLog
from ganctl.serving.hosts.worker.correlation import correlation_headers
from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest

_TOO_MANY = "Too many large requests at the same time; try again later."
_MAX_TENSORS = 1 << 20  # bytes of a request with tensors

log = logging.getLogger(__name__)


class Application:
    """Answers the requests to the models of a worker.

    Attributes:
        closing: whether each reply is the last one of its connection.
        in_progress: the number of requests that are being answered.
        count: counts the status of a reply that no batch gave.
    """

    def __init__(
        self,
        batchers: Mapping[str, Batcher],
        *,
        count: Callable[[int], None],
        access: Access,
        access_log: AccessLog | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        """Prepares the paths of each model.

        Args:
            batchers: answer the requests to the model of each name.
            count: counts the status of a reply that no batch gave.
            access: decides which requests are answered.
            access_log: gets a line for each request, if there is one.
            proxies: those whose X-Forwarded-For names the client in the access log.
        """
        self.count, self._access, self._access_log = count, access, access_log
        self._proxies = proxies or Proxies(())
        self.closing = False
        self.in_progress = 0
        self._batchers: dict[str, Batcher] = {}
        for name, batcher in batchers.items():
            for path in model_paths(name):
                self._batchers[path] = batcher
        self._names = tuple(batchers)
        self._open_inference = OpenInference(batchers, is_ready=lambda: not self.closing)
        self._worker, self._numbers = os.urandom(6).hex(), itertools.count()  # of the identities of requests
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds no reference to a task

    def max_body(self, path: str) -> int:
        """Returns the number of bytes that a body for this path may have."""
        if _is_open_inference(path):
            return _MAX_TENSORS
        batcher, _ = self._find(path)
        return batcher.interface.limits.max_body if batcher is not None else 0

    def answer(self, request: HttpRequest, respond: Respond) -> None:
        """Calls `respond` with the reply, now or later."""
        self.in_progress += 1
        if _is_open_inference(request.path):
            self._start(self._answer_open_inference(request, respond))
            return
        batcher, version = self._find(request.path)
        reply = self._refuse(request, batcher, version)
        if reply is None:
            assert batcher is not None, "an unknown path is refused"
            try:
                inputs = read_inputs(request.query, request.headers.get("content-type", ""), request.body)
                batcher.answer(inputs, request.headers, partial(self._answered, request, respond, bool(version)))
            except InputError as error:
                reply = refusal(HTTPStatus.BAD_REQUEST, str(error))
            except Refused:
                reply = _too_many()
            except Exception:  # whatever it is, the client gets a reply
                log.exception("a defect made one request fail")
                reply = defect()
            else:
                return
        self.count(reply.status)
        self._send(request, respond, reply)

    def _answered(self, request: HttpRequest, respond: Respond, is_immutable: bool, answer: Answer) -> None:
        """Sends the handler's reply."""
        status, headers, body, batch_size = answer
        if status == HTTPStatus.OK:
            headers["Cache-Control"] = cache_control(headers, is_immutable)
        self._send(request, respond, HttpReply(status, headers, body), batch_size)

    def _send(self, request: HttpRequest, respond: Respond, reply: HttpReply, batch_size: int = 0) -> None:
        """Adds the headers that all replies have.

        Args:
            request: the request.
            respond: is called with the reply.
            reply: the reply.
            batch_size: the number of requests in its batch; 0 if no batch gave it.
        """
        self.in_progress -= 1
        headers = request.headers
        if "x-request-id" in headers or "traceparent" in headers:
            reply.headers.update(correlation_headers(headers))
        identity = reply.headers.get("X-Client-Request-Id") or f"{self._worker}{next(self._numbers):06x}"
        reply.headers["X-Request-Id"] = identity
        if "origin" in headers and (cors := self._access.cors_headers(headers)):
            reply.headers.update(cors, Vary=", ".join(filter(None, (reply.headers.get("Vary"), "Origin"))))
        respond(reply)
        if self._access_log is not None:
            logged = PredictRequest(identity.encode(), headers, {})
            answer = PredictReply(logged.identity, reply.status, "", reply.headers, reply.body)
            client = self._proxies.client(request.peer, headers.get("x-forwarded-for", ""))
            seconds = time.perf_counter() - request.arrived
            self._access_log.write_one(logged, answer, batch_size, seconds, client=client, path=request.path)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_open_inference(self, request: HttpRequest, respond: Respond) -> None:
        reply = None if request.path.startswith("/v2/health/") else self._access.refuse(request.headers)
        if reply is None and request.method == "OPTIONS":
            reply = self._access.preflight(request.headers)
        if reply is None and len(request.body) > _MAX_TENSORS:
            detail = f"The body is longer than {_MAX_TENSORS:,} bytes."
            reply = refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        if reply is None:
            try:
                reply = await self._open_inference.answer(request.method, request.path, request.headers, request.body)
            except Refused:
                reply = _too_many()
            except Exception:  # whatever it is, the client gets a reply
                log.exception("a defect made one request fail")
                reply = defect()
        self.count(reply.status)
        self._send(request, respond, reply)

    def _find(self, path: str) -> tuple[Batcher | None, str]:
        """Returns the batcher of a path, and the version that the path names: `/predictions/NAME/VERSION`, or ""."""
        batcher = self._batchers.get(path)
        if batcher is None and path.startswith("/predictions/"):
            parent, _, version = path.rpartition("/")
            return self._batchers.get(parent), version
        return batcher, ""

    def _refuse(self, request: HttpRequest, batcher: Batcher | None, version: str) -> HttpReply | None:
        """Returns the reply to a request that is not passed on to a model, or None."""
        if request.path == "/ping":
            return HttpReply(200, {"content-type": "application/json"}, json.dumps({"status": "Healthy"}).encode())
        if batcher is not None and request.method == "OPTIONS":
            return self._access.preflight(request.headers)
        if (refused := self._access.refuse(request.headers)) is not None:
            return refused
        if batcher is None:
            paths = ", ".join(f"/predictions/{name}" for name in self._names)
            return refusal(HTTPStatus.NOT_FOUND, f"Nothing is served at this path. Send requests to {paths}.")
        if request.method not in METHODS:
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"Expected {ALLOW['Allow']}.", ALLOW)
        if version not in ("", batcher.version):
            detail = f"The version {version!r} is not served, but {batcher.version!r}. Leave it out for any version."
            return refusal(HTTPStatus.NOT_FOUND, detail)
        return None


def _is_open_inference(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _too_many() -> HttpReply:
    return refusal(HTTPStatus.TOO_MANY_REQUESTS, _TOO_MANY, {"Retry-After": "1"})
