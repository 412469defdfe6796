"""Answers a batch of requests: all are checked, one pass through the generator draws for all, each gets its reply.

`handle` is TorchServe's entry point; `Service` is the same without TorchServe's ways.
"""

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .common.interpolation import walk
from .common.latents import latents_of
from .engine import BACKENDS, Engine
from .fields import FIELDS
from .model import Model
from .openapi import describe
from .page import build
from .problem import MEDIA_TYPE, SHOWN, BadRequest, FieldError, problem
from .replies import encode
from .request import DESCRIPTION, PAGE, Parser, Request
from .room import Room

log = logging.getLogger(__name__)


class Context(Protocol):
    """What is used of TorchServe's context."""

    model_yaml_config: dict[str, Any]

    @property
    def system_properties(self) -> dict[str, Any]: ...
    def get_all_request_header(self, idx: int) -> dict[str, Any]: ...
    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...
    def set_response_header(self, idx: int, key: str, value: str) -> None: ...


@dataclass(frozen=True)
class Reply:
    status: int
    media: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()  # the fields that are wrong, as far as they are known ones


class Observation(NamedTuple):
    """What is to be known of a batch afterwards."""

    images: int
    inference_seconds: float
    encode_seconds: float
    faults: Counter[str]  # by the field that is faulty


_BUSY = Reply(
    429,
    MEDIA_TYPE,
    problem(429, "Too many large requests at the same time; ask again."),
    {"Retry-After": "1"},
)


class Service:
    """A model and its engine, ready to answer."""

    def __init__(self, model: Model, engine: Engine, identity: str, page: bool = False) -> None:
        """`identity` tells models, back-ends and codes apart that answer the same request with other bytes."""
        self.model = model
        self._engine = engine
        self._identity = identity
        self._page = build(model) if page else None
        self._parser = Parser(model, page)
        self._description = describe(model, page)
        self.observation = Observation(0, 0.0, 0.0, Counter())  # of the last batch

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "Service":
        """Loads an unpacked archive; `config` is the part `handler` of its model-config.yaml."""
        model = Model.load(folder, config)
        engine = Engine(BACKENDS[config["backend"]](folder / config["model_file"]), model)
        codes = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("**/*.py")))
        identity = f"{model.version} {config['backend']} {hashlib.sha256(codes).hexdigest()}"
        return cls(model, engine, identity, _page_is_on(config))

    def answer(self, batch: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Reply]:
        """Answers requests given as (inputs, headers); a faulty one never touches its neighbours."""
        parsed = [self._guarded(self._parse, inputs, headers) for inputs, headers in batch]
        room = Room(self.model.limits.max_batch)
        parsed = [_BUSY if isinstance(each, Request) and not room.takes(self._share(each)) else each for each in parsed]
        good = [request for request in parsed if isinstance(request, Request)]
        began = time.perf_counter()
        images = self._draw(good) if good else []
        drawn = time.perf_counter()
        of_request = iter(images)
        room, replies = Room(self.model.limits.max_batch * self.model.limits.max_reply), []
        for each in parsed:
            reply = self._guarded(self._encode, each, next(of_request)) if isinstance(each, Request) else each
            replies.append(_BUSY if reply.status == 200 and not room.takes(len(reply.body)) else reply)
        faults = Counter(field for reply in replies for field in reply.faults)
        self.observation = Observation(sum(map(len, images)), drawn - began, time.perf_counter() - drawn, faults)
        return replies

    def _parse(self, inputs: Mapping[str, Any], headers: Mapping[str, Any]) -> Request | Reply:
        """What is to be drawn, or the reply where nothing is."""
        # The names of headers know no case. A query's parameter leaves a header of its own name, which is no string.
        texts = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
        request = self._parser.parse(inputs, texts)
        if request.media == DESCRIPTION:
            return Reply(200, DESCRIPTION, self._description)
        known = texts.get("if-none-match")
        if request.media == PAGE:
            assert self._page is not None, "text/html is offered only where there is a page"
            if known and matches(known, self._page.headers["ETag"]):
                return Reply(304, PAGE, b"", self._page.headers)
            return Reply(200, f"{PAGE}; charset=utf-8", self._page.body, self._page.headers)
        if known and request.seeded and matches(known, self._tag(request)):
            return Reply(304, request.media, b"", self._headers(request))
        return request

    def _share(self, request: Request) -> float:
        """How much of what one request may take this one takes, 0 to 1."""
        model, limits = self.model, self.model.limits
        pixels = model.height * model.width * request.scale**2
        return request.images * max(model.values / limits.max_values, pixels / limits.max_pixels)

    def _draw(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        """All images of all requests in one pass; gives each request its own, uint8 [N, H, W, C]."""
        z = latents_of([(request.seed, request.draws) for request in requests], self.model.latent_dim)
        draws = [request.draws for request in requests]
        # What would change nothing is left out: each of these steps takes microseconds, however little there is to do.
        if any(request.truncation != 1.0 for request in requests):
            z *= np.repeat(np.array([request.truncation for request in requests], np.float32), draws)[:, None]
        if any(request.frames for request in requests):
            stops = np.split(z, np.cumsum(draws)[:-1])
            walks = [walk(of, each.frames) if each.frames else of for each, of in zip(requests, stops, strict=True)]
            z, draws = np.concatenate(walks), [len(each) for each in walks]
        if any(request.repeat > 1 for request in requests):
            z = np.repeat(z, np.repeat([request.repeat for request in requests], draws), axis=0)
        label = None
        if self.model.conditional:
            label = np.array([label for request in requests for label in request.labels or ()], np.int64)
        images = self._engine.generate(z, label)
        counts = [request.images for request in requests]
        return [images[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]

    def _encode(self, request: Request, images: NDArray[np.uint8]) -> Reply:
        body = encode(request, images, self.model)
        if len(body) > self.model.limits.max_reply:
            raise BadRequest(
                [FieldError("count", f"the reply would have {len(body):,} bytes; lower count or scale", 413)]
            )
        return Reply(200, request.media, body, self._headers(request))

    def _headers(self, request: Request) -> dict[str, str]:
        # no Cache-Control: TorchServe puts its own in the place of any
        return {"X-Seed": str(request.seed)} | ({"ETag": self._tag(request)} if request.seeded else {})

    def _tag(self, request: Request) -> str:
        """Equal where the bytes are (RFC 9110, section 8.8.3): made from all that they are made from."""
        return f'"{hashlib.sha256(f"{self._identity} {request}".encode()).hexdigest()[:32]}"'

    def _guarded(self, step: Any, *arguments: Any) -> Any:
        """Turns what a step says about its own request, even a defect of ours, into the reply to that request alone."""
        try:
            return step(*arguments)
        except BadRequest as bad:
            return Reply(
                bad.status, MEDIA_TYPE, bad.body(), faults=tuple(_known(fault) for fault in bad.faults[:SHOWN])
            )
        except Exception:
            log.exception("a defect in the handler, met by one request")
            return Reply(500, MEDIA_TYPE, problem(500, "The service has a defect; its log says more."))


def _known(fault: FieldError) -> str:
    name = fault.field.partition("[")[0]
    return name if name in (*FIELDS, "body", "Accept") else "unknown"


def matches(header: str, tag: str) -> bool:
    """Whether an `If-None-Match` names the tag (RFC 9110, section 13.1.2)."""
    return any(member.strip().removeprefix("W/") in (tag, "*") for member in header.split(","))


def _page_is_on(config: Mapping[str, Any]) -> bool:
    """What `page` says in model-config.yaml, unless the variable GANCTL_PAGE turns all pages off.

    Raises:
        ValueError: one of them has a value that it cannot have.
    """
    page = config.get("page", False)
    if type(page) is not bool:
        raise ValueError(f"page: must be true or false, found {page!r}")
    variable = os.environ.get("GANCTL_PAGE", "")
    if variable.strip().lower() not in ("", "on", "off"):
        raise ValueError(f"GANCTL_PAGE: must be on or off, found {variable!r}")
    return page and variable.strip().lower() != "off"


_service: Service | None = None


def handle(data: Sequence[Mapping[str, Any]] | None, context: Context) -> list[bytes] | None:
    """TorchServe's entry point: without data it loads the model, with a batch it answers."""
    global _service
    if _service is None or data is None:
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # or repeated JSON keys and NaN are lost before we see them
        config = context.model_yaml_config["handler"]
        _service = Service.load(Path(context.system_properties["model_dir"]), config)
        logging.getLogger().setLevel(logging.WARNING)  # the worker would print several lines for every batch
    if data is None:
        return None
    replies = _service.answer([(inputs, context.get_all_request_header(i)) for i, inputs in enumerate(data)])
    if (observe := getattr(context, "observe", None)) is not None:  # the context of our own workers has it
        observe(_service.observation)
    for i, reply in enumerate(replies):
        context.set_response_status(code=reply.status, phrase=HTTPStatus(reply.status).phrase, idx=i)
        headers = {"content-type": reply.media, "X-Model-Version": _service.model.version, "Vary": "Accept"}
        headers |= reply.headers
        for name, value in headers.items():
            context.set_response_header(i, name, value)
    return [reply.body for reply in replies]
