"""Metrics and logs of a running server: rates, latencies, errors, and request ids."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganctl.serving.archive.mar import package
from ganctl.serving.hosts.native.server import Server as NativeServer
from ganctl.serving.hosts.torchserve.server import Server as TorchServeServer
from tests import http
from tests.integration.serving.conftest import Engine, Running, running
from tests.integration.serving.doors import Metrics, metrics
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def counted(engine: Engine, export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for this file only: an aborted request of another test could be in one of two counts only."""
    with running(export, tmp_path_factory.mktemp("t"), engine=engine) as server:
        yield server


def settled_metrics(server: Running) -> Metrics:
    """The metrics after every answered request was counted: a worker counts a batch after it has sent the replies."""

    def all_counted() -> Metrics:
        values = metrics(str(server.record["metrics_url"]))
        answered = sum(value for (name, _), value in values.items() if name == "ganctl_requests_total")
        taken = sum(value for (name, _), value in values.items() if name == "QueueTime_count")
        settled = answered == taken or server.engine == "native"  # whose workers count before they reply
        return values if settled and values["ganctl_busy_workers", ()] == 0 else {}

    return wait_for(all_counted, "the workers have counted every request that they took")


def test_metrics_count_requests_images_errors_and_seconds(counted: Running) -> None:
    http.get(f"{counted.url}/predictions/digits")
    before = settled_metrics(counted)
    for count in (1, 5):
        assert http.post(f"{counted.url}/predictions/digits", json={"count": count}).status_code == 200
    assert http.post(f"{counted.url}/predictions/digits", json={"count": 0, "scales": 2}).status_code == 400
    after = settled_metrics(counted)

    def increase(name: str, **labels: str) -> float:
        key = name, tuple(sorted({"model": "digits", **labels}.items()))
        return after[key] - before.get(key, 0.0)

    assert increase("ganctl_requests_total", status="200") == 2
    assert increase("ganctl_requests_total", status="400") == 1
    assert increase("ganctl_images_total") == 6
    assert increase("ganctl_faults_total", field="count") == increase("ganctl_faults_total", field="unknown") == 1
    assert increase("ganctl_batch_size_count") == increase("ganctl_batch_seconds_count") == 3
    assert increase("ganctl_inference_seconds_count") == increase("ganctl_encode_seconds_count") == 2
    assert 0 < increase("ganctl_encode_seconds_sum") < increase("ganctl_batch_seconds_sum")
    assert increase("ganctl_inference_seconds_bucket", le="+Inf") == 2
    if counted.engine == "torchserve":
        waited = [after[key] - before.get(key, 0.0) for key in after if key[0] == "QueueTime_count"]
        assert sum(waited) == 3
    else:
        assert increase("ganctl_queue_seconds_count") == 2, "a faulty request does not wait"
        assert increase("ganctl_queue_seconds_sum") > 0


def test_metrics_report_the_model_version_and_the_workers(counted: Running) -> None:
    version = http.get(f"{counted.url}/predictions/digits").headers["x-model-version"]
    values = settled_metrics(counted)
    assert values["ganctl_model_info", (("model", "digits"), ("version", version))] == 1
    assert values["ganctl_workers", ()] == 2
    assert values["ganctl_worker_starts_total", ()] >= 2
    assert values["ganctl_busy_workers", ()] == 0


Server = TorchServeServer | NativeServer


@pytest.fixture
def logged(engine: Engine, export: Path, tmp_path: Path) -> tuple[Server, Path]:
    """A server that is not started yet, and the folder of its access log."""
    server_class: type[TorchServeServer] | type[NativeServer]
    server_class = NativeServer if engine == "native" else TorchServeServer
    return server_class(package(export, tmp_path), port=0, workers=1, access_log=tmp_path / "log"), tmp_path / "log"


def test_the_access_log_has_a_line_per_request_with_its_correlation_headers(logged: tuple[Server, Path]) -> None:
    server, folder = logged
    correlation = {"X-Request-Id": "mine-7", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with server:
        good = http.post(f"{server.url}/predictions/digits", json={"seed": 7}, headers=correlation)
        bad = http.post(f"{server.url}/predictions/digits", json={"seed": -1}, headers={"traceparent": "x\ty"})
        (path,) = folder.glob("access-*.jsonl")
        wait_for(lambda: path.read_text().count("\n") == 3, "a line for each request is written")
        # The first line is of the request that the server sends itself during the start.
        _first, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert good.headers["x-client-request-id"] == "mine-7"
    assert good.headers["traceparent"] == correlation["traceparent"]
    assert "traceparent" not in bad.headers, "an invalid traceparent is not echoed"
    assert [line["status"] for line in lines] == [200, 400]
    assert [line["request_id"] for line in lines] == [reply.headers["x-request-id"] for reply in (good, bad)]
    assert lines[0]["x_client_request_id"] == "mine-7"
    assert lines[0]["traceparent"] == correlation["traceparent"]
    assert (lines[0]["seed"], lines[1]["seed"]) == (7, None)
    assert lines[0]["bytes"] == len(good.content)
    assert lines[0]["media_type"] == "image/png"
    assert lines[0]["milliseconds"] > 0
