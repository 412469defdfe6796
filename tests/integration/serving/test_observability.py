"""Metrics and logs of a running server: rates, latencies, errors, and request ids."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.torchserve.server import Server
from tests import http
from tests.integration.serving.conftest import Running, running
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def counted(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for this file alone: a client that broke off in another test may stand in one of two counts only."""
    with running(export, tmp_path_factory.mktemp("t")) as server:
        yield server


def metrics(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Sample by name and labels."""
    text = http.get(url).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def settled(server: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The metrics, once all that was answered is counted: a worker counts a batch after it has sent the replies."""

    def all_counted() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        told = metrics(str(server.record["metrics_url"]))
        answered = sum(value for (name, _), value in told.items() if name == "ganctl_requests_total")
        taken = sum(value for (name, _), value in told.items() if name == "QueueTime_count")
        return told if answered == taken and told["ganctl_busy_workers", ()] == 0 else {}

    return wait_for(all_counted, "the workers have counted every request that they took")


def test_metrics_count_requests_images_faults_and_time(counted: Running) -> None:
    http.get(f"{counted.url}/predictions/digits")
    before = settled(counted)
    for count in (1, 5):
        assert http.post(f"{counted.url}/predictions/digits", json={"count": count}).status_code == 200
    assert http.post(f"{counted.url}/predictions/digits", json={"count": 0, "scales": 2}).status_code == 400
    after = settled(counted)

    def grown(name: str, **labels: str) -> float:
        key = name, tuple(sorted(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert grown("ganctl_requests_total", status="200") == 2
    assert grown("ganctl_requests_total", status="400") == 1
    assert grown("ganctl_images_total") == 6
    assert grown("ganctl_faults_total", field="count") == grown("ganctl_faults_total", field="unknown") == 1
    assert grown("ganctl_batch_size_count") == grown("ganctl_batch_seconds_count") == 3
    assert grown("ganctl_inference_seconds_count") == grown("ganctl_encode_seconds_count") == 2
    assert 0 < grown("ganctl_encode_seconds_sum") < grown("ganctl_batch_seconds_sum")
    assert grown("ganctl_inference_seconds_bucket", le="+Inf") == 2
    assert sum(grown(name, **dict(labels)) for name, labels in after if name == "QueueTime_count") == 3


def test_metrics_tell_who_serves_what(counted: Running) -> None:
    version = http.get(f"{counted.url}/predictions/digits").headers["x-model-version"]
    told = settled(counted)
    assert told["ganctl_model_info", (("version", version),)] == 1
    assert told["ganctl_workers", ()] == 2
    assert told["ganctl_worker_starts_total", ()] >= 2
    assert told["ganctl_busy_workers", ()] == 0


@pytest.fixture
def logged(export: Path, tmp_path: Path) -> tuple[Server, Path]:
    return Server(package(export, tmp_path), port=0, workers=1, access_log=tmp_path / "log"), tmp_path / "log"


def test_the_access_log_has_a_line_for_each_request_with_the_marks_it_came_with(logged: tuple[Server, Path]) -> None:
    server, folder = logged
    marks = {"X-Request-Id": "mine-7", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with server:
        good = http.post(f"{server.url}/predictions/digits", json={"seed": 7}, headers=marks)
        bad = http.post(f"{server.url}/predictions/digits", json={"seed": -1}, headers={"traceparent": "x\ty"})
        (path,) = folder.glob("access-*.jsonl")
        wait_for(lambda: path.read_text().count("\n") == 3, "a line for each request is written")
        _first, *lines = [json.loads(line) for line in path.read_text().splitlines()]  # the first was of the start
    assert good.headers["x-client-request-id"] == "mine-7"
    assert good.headers["traceparent"] == marks["traceparent"]
    assert "traceparent" not in bad.headers, "what is no mark does not come back"
    assert [line["status"] for line in lines] == [200, 400]
    assert [line["request_id"] for line in lines] == [reply.headers["x-request-id"] for reply in (good, bad)]
    assert lines[0]["x_client_request_id"] == "mine-7"
    assert lines[0]["traceparent"] == marks["traceparent"]
    assert (lines[0]["seed"], lines[1]["seed"]) == (7, None)
    assert lines[0]["bytes"] == len(good.content)
    assert lines[0]["media_type"] == "image/png"
    assert lines[0]["milliseconds"] > 0
