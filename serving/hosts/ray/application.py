"""The application that Ray Serve runs: the paths and headers of the service around the handler's replies.

It runs where ganctl is not installed: `package.py` copies it, and the modules of ganctl that it imports, into a folder.
"""

import asyncio
import logging
from http import HTTPStatus
from pathlib import Path

import yaml
from ray import serve
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ganctl.serving.handler.replies import Reply
from ganctl.serving.handler.request import Request
from ganctl.serving.handler.service import Service
from ganctl.serving.hosts.native.http_reply import HttpReply, cache_control, defect, model_paths, refusal
from ganctl.serving.hosts.native.inputs import InputError, read_inputs

_METHODS = ("GET", "HEAD", "POST")

log = logging.getLogger("ray.serve")


class Generator:
    """A replica: the handler and the generator of this folder, loaded."""

    def __init__(self) -> None:
        folder = Path(__file__).parent
        settings = yaml.safe_load((folder / "model-config.yaml").read_bytes())["handler"]
        self._service = Service.load(folder, settings)
        self._paths = model_paths(self._service.model.name)

    async def __call__(self, request: HttpRequest) -> Response:
        """Answers an HTTP request, with status 500 if a defect keeps it from being drawn."""
        try:
            reply = await self._answer(request)
        except InputError as error:
            reply = refusal(HTTPStatus.BAD_REQUEST, str(error))
        except Exception:  # whatever it is, the client gets a reply
            log.exception("a defect made one request fail")
            reply = defect()
        return Response(reply.body, reply.status, reply.headers)

    async def check_health(self) -> None:
        """Draws an image; Ray restarts the replica if this fails or takes too long."""
        parsed = self._service.parse({}, {})
        reply = await self._draw(parsed)
        if reply.status != HTTPStatus.OK:
            raise RuntimeError(f"health check: found status {reply.status}, expected 200: {reply.body[:200]!r}")

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def _draw(self, batch: list[Request | Reply]) -> list[Reply]:
        """Draws a batch in a thread, so that the event loop accepts the next requests meanwhile."""
        return await asyncio.to_thread(self._service.draw, batch)

    async def _answer(self, request: HttpRequest) -> HttpReply:
        path, model = request.url.path, self._service.model
        if path == "/ping":
            return HttpReply(HTTPStatus.OK, {"content-type": "application/json"}, b'{"status": "Healthy"}')
        path, _, version = path.rpartition("/") if path.startswith(f"{self._paths[0]}/") else (path, "", "")
        if path not in self._paths:
            return refusal(HTTPStatus.NOT_FOUND, f"Nothing is served at this path. Send requests to {self._paths[0]}.")
        if request.method not in _METHODS:
            allow = ", ".join(_METHODS)
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"Expected {allow}.", {"Allow": allow})
        if version not in ("", model.version):
            detail = f"The version {version!r} is not served, but {model.version!r}. Leave it out for any version."
            return refusal(HTTPStatus.NOT_FOUND, detail)
        query, media = request.scope["query_string"], request.headers.get("content-type", "")
        parsed = self._service.parse(read_inputs(query, media, await request.body()), request.headers)
        reply = await self._draw(parsed) if isinstance(parsed, Request) else parsed
        headers = self._service.http_headers(reply)
        if reply.status == HTTPStatus.OK:
            headers["Cache-Control"] = cache_control(headers, is_immutable=bool(version))
        return HttpReply(reply.status, headers, reply.body)


app = serve.deployment(Generator).bind()  # config.yaml has its settings
