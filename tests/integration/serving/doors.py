"""URLs at which a server answers, and its replies."""

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests import http
from tests.integration.serving.conftest import Running

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


def received(metrics_url: str) -> float:
    """How many requests for images TorchServe has read, be they answered or waiting."""
    families = text_string_to_metric_families(http.get(metrics_url).text)
    samples = (sample for family in families for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == "ts_inference_requests_total")


def status(method: str, url: str, key: str | None = None, **more: Any) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return http.request(method, url, headers=headers, **more).status_code
