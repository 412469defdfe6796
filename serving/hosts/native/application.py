"""The ASGI application of a worker: paths, methods, keys, limits and headers around the handler's replies."""

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from ganctl.serving.hosts.native.access import ALLOW, METHODS, Access
from ganctl.serving.hosts.native.batcher import Batcher, Refused
from ganctl.serving.hosts.native.http_reply import HttpReply, refusal
from ganctl.serving.hosts.native.inputs import InputError, read_inputs
from ganctl.serving.hosts.native.open_inference import OpenInference
from ganctl.serving.hosts.worker.access_log import AccessLog
from ganctl.serving.hosts.worker.correlation import correlation_headers
from ganctl.serving.hosts.worker.messages import PredictReply, PredictRequest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_RETRY = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}
_TOO_MANY = "Too many large requests at the same time; try again later."
_MAX_TENSORS = 1 << 20  # bytes of a request with tensors
_YEAR = "public, max-age=31536000, immutable"


class Disconnected(Exception):
    """The client closed the connection before its request was complete."""


class Application:
    """Answers the requests of all connections of a worker."""

    def __init__(
        self,
        batchers: Mapping[str, Batcher],
        *,
        count: Callable[[int], None],
        access: Access,
        access_log: AccessLog | None = None,
    ) -> None:
        """Prepares the paths of each model.

        Args:
            batchers: answer the requests to the model of each name.
            count: counts the status of a reply that no batch gave.
            access: decides which requests are answered.
            access_log: gets a line for each request, if there is one.
        """
        self._count, self._access, self._access_log = count, access, access_log
        self.closing = False  # whether each reply is the last one of its connection
        self._batchers: dict[str, Batcher] = {}
        for name, batcher in batchers.items():
            for path in (f"/predictions/{name}", f"/{name}/predict", f"/models/{name}/invoke"):
                self._batchers[path] = batcher
        self._names = tuple(batchers)
        self._open_inference = OpenInference(batchers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request (ASGI)."""
        started = time.perf_counter()
        headers = _read_headers(scope["headers"])
        try:
            reply, batch_size = await self._answer(scope, headers, receive)
        except Disconnected:
            return
        correlation = correlation_headers(headers)
        request_id = correlation.get("X-Client-Request-Id") or os.urandom(8).hex()
        reply.headers.update(correlation, **{"X-Request-Id": request_id})
        if self.closing:
            reply.headers.update(_CLOSE)
        if cors := self._access.cors_headers(headers):
            reply.headers.update(cors, Vary=", ".join(filter(None, (reply.headers.get("Vary"), "Origin"))))
        fields = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
        if reply.status != HTTPStatus.NOT_MODIFIED:
            fields.append((b"content-length", b"%d" % len(reply.body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": fields})
        await send({"type": "http.response.body", "body": reply.body})
        if self._access_log is not None:
            request = PredictRequest(request_id.encode(), headers, {})
            answer = PredictReply(request.identity, reply.status, "", reply.headers, reply.body)
            client = scope["client"][0] if scope["client"] else None  # none on a Unix socket
            seconds = time.perf_counter() - started
            self._access_log.write_one(request, answer, batch_size, seconds, client=client, path=scope["path"])

    async def _answer(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> tuple[HttpReply, int]:
        """Returns the reply, and the number of requests in its batch: 0 if no batch gave it."""
        if scope["path"] == "/v2" or scope["path"].startswith("/v2/"):
            return await self._answer_open_inference(scope, headers, receive), 0
        batcher, version = self._find(scope["path"])
        reply = self._refuse(scope, headers, batcher, version)
        if reply is None:
            assert batcher is not None, "an unknown path is refused"
            max_body = batcher.interface.limits.max_body
            body = await _read_body(receive, max_body)
            try:
                inputs = read_inputs(scope["query_string"], headers.get("content-type", ""), body)
                answer = await batcher.answer(inputs, headers)
            except InputError as error:
                reply = refusal(HTTPStatus.BAD_REQUEST, str(error))
            except Refused:
                reply = refusal(HTTPStatus.TOO_MANY_REQUESTS, _TOO_MANY, _RETRY)
            else:
                if answer.status == HTTPStatus.OK:
                    answer.headers["Cache-Control"] = _cache_control(answer.headers, immutable=bool(version))
                if len(body) > max_body:
                    answer.headers.update(_CLOSE)  # the rest of the body is not read
                return HttpReply(answer.status, answer.headers, answer.body), answer.batch_size
        self._count(reply.status)
        return reply, 0

    async def _answer_open_inference(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> HttpReply:
        reply = None if scope["path"].startswith("/v2/health/") else self._access.refuse(headers)
        if reply is None and scope["method"] == "OPTIONS":
            reply = self._access.preflight(headers)
        if reply is None:
            body = await _read_body(receive, _MAX_TENSORS)
            if len(body) > _MAX_TENSORS:
                detail = f"The body is longer than {_MAX_TENSORS:,} bytes."
                reply = refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, _CLOSE)
            else:
                try:
                    reply = await self._open_inference.answer(scope["method"], scope["path"], headers, body)
                except Refused:
                    reply = refusal(HTTPStatus.TOO_MANY_REQUESTS, _TOO_MANY, _RETRY)
        self._count(reply.status)
        return reply

    def _find(self, path: str) -> tuple[Batcher | None, str]:
        """Returns the batcher of a path, and the version that the path names: `/predictions/NAME/VERSION`, or ""."""
        batcher = self._batchers.get(path)
        if batcher is None and path.startswith("/predictions/"):
            parent, _, version = path.rpartition("/")
            return self._batchers.get(parent), version
        return batcher, ""

    def _refuse(
        self, scope: Scope, headers: Mapping[str, str], batcher: Batcher | None, version: str
    ) -> HttpReply | None:
        """Returns the reply to a request that is not passed on to a model, or None."""
        if scope["path"] == "/ping":
            return HttpReply(200, {"content-type": "application/json"}, json.dumps({"status": "Healthy"}).encode())
        if batcher is not None and scope["method"] == "OPTIONS":
            return self._access.preflight(headers)
        if (refused := self._access.refuse(headers)) is not None:
            return refused
        if batcher is None:
            paths = ", ".join(f"/predictions/{name}" for name in self._names)
            return refusal(HTTPStatus.NOT_FOUND, f"Nothing is served at this path. Send requests to {paths}.")
        if scope["method"] not in METHODS:
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"Expected {ALLOW['Allow']}.", ALLOW)
        if version not in ("", batcher.version):
            detail = f"The version {version!r} is not served, but {batcher.version!r}. Leave it out for any version."
            return refusal(HTTPStatus.NOT_FOUND, detail)
        return None


def _read_headers(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Returns the values by name in lower case; those of a repeated header are joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for encoded, content in fields:
        name, value = encoded.decode("latin-1"), content.decode("utf-8", "replace")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _read_body(receive: Receive, limit: int) -> bytes:
    """Returns the body; of one with more than `limit` bytes, its first part, which is longer than `limit`, too."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += bytes(message["body"])
        if not message["more_body"] or len(body) > limit:
            return body


def _cache_control(headers: Mapping[str, str], *, immutable: bool) -> str:
    """A reply without an ETag has random images; one of a path without a version may change with the version."""
    if "ETag" not in headers:
        return "no-store"
    return _YEAR if immutable else "no-cache"
