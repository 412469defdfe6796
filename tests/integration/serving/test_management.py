"""The management port allows reading and token renewal, and nothing else."""

import pytest

from tests import http
from tests.integration.serving.conftest import Running


def test_it_tells_whether_the_workers_are_ready(served: Running) -> None:
    (model,) = http.get(f"{served.record['management_url']}/models/digits").raise_for_status().json()
    assert [worker["status"] for worker in model["workers"]] == ["READY", "READY"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path", ["/models/digits", "/models/digits?min_worker=0", "/models?url=digits.mar", "/workflows"]
)
def test_it_changes_nothing(served: Running, method: str, path: str) -> None:
    reply = http.request(method, f"{served.record['management_url']}{path}")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET"
    assert "ganctl deploy" in reply.json()["detail"]
    assert len(http.get(f"{served.record['management_url']}/models/digits").json()[0]["workers"]) == 2


@pytest.mark.parametrize("host", ["example.org", "example.org:8081", "127.0.0.1.example.org", ""])
def test_a_name_that_is_bound_to_loopback_reads_nothing(served: Running, host: str) -> None:
    reply = http.get(f"{served.record['management_url']}/models/digits", headers={"Host": host})
    assert reply.status_code == 421
