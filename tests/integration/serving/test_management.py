"""The management port allows reading and token renewal, and nothing else."""

import pytest

from tests import http
from tests.integration.serving.conftest import Running


def test_the_management_port_reports_the_state_of_each_worker(served: Running) -> None:
    (model,) = http.get(f"{served.record['management_url']}/models/digits").raise_for_status().json()
    assert [worker["status"] for worker in model["workers"]] == ["READY", "READY"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path", ["/models/digits", "/models/digits?min_worker=0", "/models?url=digits.mar", "/workflows"]
)
def test_the_management_port_refuses_every_change(served: Running, method: str, path: str) -> None:
    reply = http.request(method, f"{served.record['management_url']}{path}")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET"
    assert "ganctl deploy" in reply.json()["detail"]
    assert len(http.get(f"{served.record['management_url']}/models/digits").json()[0]["workers"]) == 2


@pytest.mark.parametrize("host", ["example.org", "example.org:8081", "127.0.0.1.example.org", ""])
def test_the_management_port_refuses_other_host_names(served: Running, host: str) -> None:
    reply = http.get(f"{served.record['management_url']}/models/digits", headers={"Host": host})
    assert reply.status_code == 421
