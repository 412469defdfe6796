"""Requests that are too large are refused before anything is generated or encoded."""

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


class CountingEngine:
    """An engine that returns black images and counts them."""

    def __init__(self) -> None:
        self.images = 0

    def generate(self, inputs: Inputs) -> NDArray[np.uint8]:
        count = len(inputs["z"])
        self.images += count
        return np.zeros((count, 28, 28, 1), np.uint8)


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


def statuses(engine: CountingEngine, *bodies: bytes, accept: str = "image/png") -> list[int]:
    """The statuses of the replies to a batch with these bodies."""
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
def test_requests_that_are_too_large_are_refused_before_any_work(
    engine: CountingEngine, fields: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("a refused request was processed")

    monkeypatch.setattr(service_module, "batched_latents", no_work)
    monkeypatch.setattr(service_module, "encode", no_work)
    accept = "image/gif" if "frames" in fields else "image/png"
    assert statuses(engine, json.dumps(fields).encode(), accept=accept) == [status]
    assert engine.images == 0


def test_a_body_that_is_too_long_is_not_parsed(engine: CountingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_parsing(*_: object, **__: object) -> None:
        raise AssertionError("a body that is too long was parsed")

    monkeypatch.setattr(json, "loads", no_parsing)
    assert statuses(engine, b'{"seed": 1' + b" " * 500 + b"}") == [413]
    assert engine.images == 0


def test_images_are_generated_only_for_valid_requests_of_a_batch(engine: CountingEngine) -> None:
    assert statuses(engine, b'{"count": 65}', b'{"count": 3}', b"{") == [400, 200, 400]
    assert engine.images == 3
