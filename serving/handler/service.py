"""Answers a batch of requests with one pass through the generator; a host passes the requests and sends the replies."""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .batch_budget import BatchBudget
from .common.interpolation import walk
from .common.latents import batched_latents
from .engine import Engine, Inputs
from .fields import FIELDS
from .model import DEFAULT_NAME, Limits, Model
from .openapi import build_openapi
from .page import build_page, page_enabled
from .problem import MAX_ERRORS, MEDIA_TYPE, BadRequest, FieldError, problem
from .replies import Reply, encode
from .request import HTML_TYPE, OPENAPI_TYPE, Parser, Request

log = logging.getLogger(__name__)


class Observation(NamedTuple):
    """Measurements of one batch."""

    images: int
    inference_seconds: float
    encode_seconds: float
    faults: Counter[str]  # number of errors by field


_TOO_MANY = Reply(
    429, MEDIA_TYPE, problem(429, "Too many large requests at the same time; try again later."), {"Retry-After": "1"}
)


class Service:
    """A loaded model that answers batches of requests."""

    def __init__(self, model: Model, engine: Engine, identity: str, page: bool = False) -> None:
        """Prepare the page and the OpenAPI document.

        Args:
            model: the generator's interface and the limits.
            engine: runs the generator.
            identity: differs between models, backends, devices and code versions, which give other bytes for the same
                request.
            page: whether a browser gets the page.
        """
        self.model = model
        self.engine = engine
        self._identity = identity
        self._page = build_page(model) if page else None
        self._parser = Parser(model, page)
        self._openapi = build_openapi(model, page)
        self.observation = Observation(0, 0.0, 0.0, Counter())  # of the last batch

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], name: str = DEFAULT_NAME) -> "Service":
        """Load an unpacked archive.

        Args:
            folder: the folder of the archive's members.
            config: the section `handler` of its model-config.yaml.
            name: of the model in the paths of the service.
        """
        manifest = json.loads((folder / "manifest.json").read_bytes())
        model = Model.from_manifest(manifest, Limits.from_config(config), name)
        engine = Engine.load(config["backend"], folder / config["model_file"], model, os.environ)
        code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("**/*.py")))
        identity = f"{name} {model.version} {config['backend']} {engine.device} {hashlib.sha256(code).hexdigest()}"
        page = config.get("page", False)
        if type(page) is not bool:
            raise ValueError(f"page: must be true or false, found {page!r}")
        return cls(model, engine, identity, page_enabled(os.environ) and page)

    def answer(self, batch: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Reply]:
        """Answer requests given as (inputs, headers). A faulty request does not affect the others."""
        return self.draw([self.parse(inputs, _texts(headers)) for inputs, headers in batch])

    def parse(self, inputs: Mapping[str, Any], headers: Mapping[str, str]) -> Request | Reply:
        """The request to draw, or the reply if nothing has to be drawn; `headers` have names in lower case."""
        request: Request | Reply = self._catch_errors(self._parse, inputs, headers)
        return request

    def draw(self, batch: Sequence[Request | Reply]) -> list[Reply]:
        """Draw the requests of a batch in one pass; replies are returned as they are."""
        limits = self.model.limits
        work, reply_bytes = BatchBudget(limits.max_batch), BatchBudget(limits.max_batch * limits.max_reply)
        parsed = [_TOO_MANY if self._is_excess(each, work) else each for each in batch]
        requests = [request for request in parsed if isinstance(request, Request)]
        started = time.perf_counter()
        images = self._generate(requests) if requests else []
        generated = time.perf_counter()
        remaining = iter(images)
        replies = [
            self._catch_errors(self._encode, p, next(remaining), reply_bytes) if isinstance(p, Request) else p
            for p in parsed
        ]
        faults = Counter(name for reply in replies for name in reply.error_fields)
        encode_seconds = time.perf_counter() - generated
        self.observation = Observation(sum(map(len, images)), generated - started, encode_seconds, faults)
        return replies

    def cost(self, request: Request) -> float:
        """The request's size as a fraction of the largest allowed request, 0 to 1."""
        model, limits = self.model, self.model.limits
        pixels = model.height * model.width * request.scale**2
        return request.images * max(model.values / limits.max_values, pixels / limits.max_pixels)

    def http_headers(self, reply: Reply) -> dict[str, str]:
        """All headers that a host must send with a reply."""
        common = {"content-type": reply.media, "X-Model-Version": self.model.version, "Vary": "Accept"}
        return {**common, **reply.headers}

    def _parse(self, inputs: Mapping[str, Any], headers: Mapping[str, str]) -> Request | Reply:
        request = self._parser.parse(inputs, headers)
        if request.media == OPENAPI_TYPE:
            return Reply(200, OPENAPI_TYPE, self._openapi)
        if_none_match = headers.get("if-none-match", "")
        if request.media == HTML_TYPE:
            assert self._page is not None, "text/html is offered only if there is a page"
            if etag_matches(if_none_match, self._page.headers["ETag"]):
                return Reply(304, HTML_TYPE, b"", self._page.headers)
            return self._page
        if if_none_match and request.seeded and etag_matches(if_none_match, self._etag(request)):
            return Reply(304, request.media, b"", self._headers(request))
        return request

    def _is_excess(self, parsed: Request | Reply, work: BatchBudget) -> bool:
        return isinstance(parsed, Request) and not work.try_reserve(self.cost(parsed))

    def _generate(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        """Generate the images of all requests in one pass, uint8 [N, H, W, C] for each request."""
        z = batched_latents([(request.seed, request.num_latents) for request in requests], self.model.latent_dim)
        counts = [request.num_latents for request in requests]
        # Steps without effect are skipped: each takes microseconds even for one image.
        if any(request.truncation != 1.0 for request in requests):
            z *= np.repeat(np.array([request.truncation for request in requests], np.float32), counts)[:, None]
        if any(request.frames for request in requests):
            latents = np.split(z, np.cumsum(counts)[:-1])
            z = np.concatenate([walk(z, r.frames) if r.frames else z for r, z in zip(requests, latents, strict=True)])
            counts = [request.frames or request.num_latents for request in requests]
        if any(request.repeat > 1 for request in requests):
            z = np.repeat(z, np.repeat([request.repeat for request in requests], counts), axis=0)
        inputs: Inputs = {"z": z}
        if self.model.conditional:
            inputs["label"] = np.array([label for request in requests for label in request.labels or ()], np.int64)
        images = self.engine.generate(inputs)
        counts = [request.images for request in requests]
        return [images[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]

    def _encode(self, request: Request, images: NDArray[np.uint8], reply_bytes: BatchBudget) -> Reply:
        body = encode(request, images, self.model)
        if len(body) > self.model.limits.max_reply:
            error = FieldError("count", f"the reply would have {len(body):,} bytes; lower count or scale", 413)
            raise BadRequest([error])
        fits = reply_bytes.try_reserve(len(body))
        return Reply(200, request.media, body, self._headers(request)) if fits else _TOO_MANY

    def _headers(self, request: Request) -> dict[str, str]:
        # no Cache-Control: TorchServe replaces it by its own
        return {"X-Seed": str(request.seed)} | ({"ETag": self._etag(request)} if request.seeded else {})

    def _etag(self, request: Request) -> str:
        """An entity tag (RFC 9110, section 8.8.3): a hash of everything that determines the reply's bytes."""
        return f'"{hashlib.sha256(f"{self._identity} {request}".encode()).hexdigest()[:32]}"'

    def _catch_errors(self, step: Any, *arguments: Any) -> Any:
        """Run a step for one request and turn an exception, even from a defect, into that request's reply."""
        try:
            return step(*arguments)
        except BadRequest as bad:
            error_fields = tuple(_metric_name(error) for error in bad.errors[:MAX_ERRORS])
            return Reply(bad.status, MEDIA_TYPE, bad.body(), error_fields=error_fields)
        except Exception:
            log.exception("a defect in the handler made one request fail")
            return Reply(500, MEDIA_TYPE, problem(500, "A defect in the service; see its log."))


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    """The headers with names in lower case.

    TorchServe adds a parameter's content type to them, under the parameter's name, as a dictionary; it is left out.
    """
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _metric_name(error: FieldError) -> str:
    """The field's name for the metrics; "unknown" for an unknown field, as clients can invent any number of them."""
    name = error.field.partition("[")[0]
    return name if name in (*FIELDS, "body", "Accept") else "unknown"


def etag_matches(header: str, etag: str) -> bool:
    """Return whether an `If-None-Match` header matches the entity tag (RFC 9110, section 13.1.2)."""
    return any(member.strip().removeprefix("W/") in (etag, "*") for member in header.split(","))
