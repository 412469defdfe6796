"""Where a server can be asked, and what it says."""

from pathlib import Path
from typing import Any

from ... import http
from .conftest import Running

DRAWING = (
    "/predictions/digits",
    "/predictions/digits/1.0",
    "/explanations/digits",
    "/digits/predict",
    "/models/digits/invoke",
    "/invocations",
    "/v1/models/digits:predict",
    "/v2/models/digits/infer",
)


def private(running: Running) -> Path:
    """The folder of settings, store and logs."""
    return next(running.temporary.glob("ganctl-*/config.properties")).parent


def status(method: str, url: str, key: str | None = None, **more: Any) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return http.request(method, url, headers=headers, **more).status_code
