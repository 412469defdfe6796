"""What is too large is refused before any work: nothing is drawn for it, nothing is encoded."""

import json
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from ganctl.serving.handler import service as service_module
from ganctl.serving.handler.engine import Engine, Inputs
from ganctl.serving.handler.model import Limits, Model
from ganctl.serving.handler.service import Service

LIMITS = Limits(max_count=64, max_text=8, max_frames=32, max_scale=4, max_values=28 * 28 * 100, max_body=500)
MODEL = Model("abc", 16, tuple("0123456789"), 1, 28, 28, LIMITS)


class Counting:
    """An engine that draws nothing, and knows how many images were asked for."""

    def __init__(self) -> None:
        self.images = 0

    def generate(self, inputs: Inputs) -> NDArray[np.uint8]:
        count = len(inputs["z"])
        self.images += count
        return np.zeros((count, 28, 28, 1), np.uint8)


@pytest.fixture
def engine() -> Counting:
    return Counting()


def answer(engine: Counting, *bodies: bytes, accept: str = "image/png") -> list[int]:
    service = Service(MODEL, cast(Engine, engine), "counting")
    return [reply.status for reply in service.answer([({"body": body}, {"Accept": accept}) for body in bodies])]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"count": 65}, 400),
        ({"digits": [1] * 65}, 400),
        ({"text": "1" * 9}, 400),
        ({"scale": 5}, 400),
        ({"frames": 33}, 400),
        ({"text": "1" * 8, "count": 13}, 413),
        ({"frames": 32, "digits": [1, 2, 3, 4]}, 413),
        ({"count": 10**30}, 400),
    ],
)
def test_too_much_is_refused_before_any_work(
    engine: Counting, fields: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("work for a request that is refused")

    monkeypatch.setattr(service_module, "batched_latents", no_work)
    monkeypatch.setattr(service_module, "encode", no_work)
    accept = "image/gif" if "frames" in fields else "image/png"
    assert answer(engine, json.dumps(fields).encode(), accept=accept) == [status]
    assert engine.images == 0


def test_a_body_that_is_too_long_is_not_even_parsed(engine: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_parsing(*_: object, **__: object) -> None:
        raise AssertionError("a body that is too long is parsed")

    monkeypatch.setattr(json, "loads", no_parsing)
    assert answer(engine, b'{"seed": 1' + b" " * 500 + b"}") == [413]
    assert engine.images == 0


def test_only_what_is_answered_is_drawn(engine: Counting) -> None:
    assert answer(engine, b'{"count": 65}', b'{"count": 3}', b"{") == [400, 200, 400]
    assert engine.images == 3
