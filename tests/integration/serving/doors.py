"""HTTP helpers: prediction paths, replies, metrics, and the private folder of a server."""

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests import http
from tests.integration.serving.conftest import Running

Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]  # (name, sorted labels) → value

# All paths that generate images.
PREDICTION_PATHS = (
    "/predictions/digits",
    "/predictions/digits/1.0",
    "/explanations/digits",
    "/digits/predict",
    "/models/digits/invoke",
    "/invocations",
    "/v1/models/digits:predict",
    "/v2/models/digits/infer",
)


def private_folder(server: Running) -> Path:
    """The folder with a server's settings, model store and logs."""
    return next(server.temporary.glob("ganctl-*/config.properties")).parent


def metrics(metrics_url: str) -> Metrics:
    """All samples of the metrics endpoint."""
    text = http.get(metrics_url).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def received(server: Running) -> float:
    """The number of image requests that TorchServe has read; of the native host, of those that are not yet answered."""
    counter = {"torchserve": "ts_inference_requests_total", "native": "ganctl_requests_in_progress"}[server.engine]
    samples = metrics(str(server.record["metrics_url"])).items()
    return sum(value for (name, _), value in samples if name == counter)


def status(method: str, url: str, key: str | None = None, **options: Any) -> int:
    """The status of the reply to a request with this key."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return http.request(method, url, headers=headers, **options).status_code


def seeded_image(server: Running) -> bytes:
    """The reply to a request with a fixed seed; the same bytes every time."""
    body = {"digits": [3, 1, 4], "count": 9, "seed": 2_026, "scale": 2}
    reply = http.post(f"{server.url}/predictions/digits", json=body)
    assert reply.status_code == 200, reply.text
    return reply.content
