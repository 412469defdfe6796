"""The native host answers rightly where TorchServe cannot: forms, methods, paths, pipelining, large requests."""

import io
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import http
from tests.integration.serving.conftest import Engine, Running, finish, running, start_ganctl
from tests.integration.serving.doors import metrics
from tests.integration.serving.hostile_kinds import JSON
from tests.integration.serving.watch import Watch
from tests.integration.serving.wire import Reply, Wire, request
from tests.unit.serving.gates import HELD, Gate
from tests.unit.serving.small_export import write_export
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the native host needs Linux, and the tests look into /proc"
)

FORM = ("Content-Type", "application/x-www-form-urlencoded")
SEEDED = request(body=b'{"digits": 7, "seed": 3}', headers=[JSON])


@pytest.fixture(scope="session")
def native(server_of: Callable[[Engine], Running]) -> Running:
    """The shared server of the native host; a test must not damage it."""
    return server_of("native")


def reply_to(server: Running, data: bytes) -> Reply:
    with Wire(server.url) as wire:
        wire.send(data)
        reply = wire.read()
    assert reply is not None
    return reply


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (request(body=b"seed=%zz", headers=[FORM]), 400, "%zz"),
        (request(body=b"=1", headers=[FORM]), 400, "without a name"),
        (request(body=b"--\r\n\r\n--", headers=[("Content-Type", "multipart/form-data; boundary=")]), 400, "the form"),
        (request("GET", "/digits/predict?seed=%zz"), 400, "%zz"),
        (request("GET", "/digits/predict%zz"), 404, "/predictions/digits"),
        (request("GET", "*"), 404, "/predictions/digits"),
        (request("DELETE"), 405, "GET, HEAD, POST"),
        (request("X"), 400, "HTTP"),
        (request(headers=[("Transfer-Encoding", "chunked")], length="") + b"-1\r\n", 400, "HTTP"),
        (request(headers=[("Transfer-Encoding", "chunked")], length="5") + b"0\r\n\r\n", 400, "HTTP"),
        (request(length="+5", body=b"12345"), 400, "HTTP"),
        (request("GET", "/digits/predict?" + "x" * 70_000), 414, "65,536"),
        (request(headers=[("X", "x" * 40_000)]), 431, "32,768"),
        (request(body=b" " * 70_000, headers=[JSON]), 413, "65,536"),
        (request("POST", "/predictions/letters"), 404, "/predictions/digits"),
        (request("POST", "/predictions/digits/other"), 404, "'other'"),
    ],
)  # fmt: skip
def test_a_faulty_request_gets_a_4xx_with_the_reason(native: Running, data: bytes, status: int, detail: str) -> None:
    reply = reply_to(native, data)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    problem = json.loads(reply.body)
    assert problem["status"] == status
    assert detail in json.dumps(problem)


def test_pipelined_requests_are_answered_in_their_order(native: Running) -> None:
    bodies = [{"digits": 7, "seed": seed, "count": 1 + 60 * (seed % 3)} for seed in range(30)]
    alone = [http.post(f"{native.url}/predictions/digits", json=body).content for body in bodies]
    with Wire(native.url) as wire:
        wire.send(b"".join(request(body=json.dumps(body).encode(), headers=[JSON]) for body in bodies))
        replies = [wire.read() for _ in bodies]
    assert [reply and reply.body for reply in replies] == alone


def test_a_pipelined_request_that_is_no_http_ends_the_connection_after_the_replies_before_it(native: Running) -> None:
    with Wire(native.url) as wire:
        wire.send(SEEDED + SEEDED + b"\0\r\n\r\n")
        replies = [wire.read(), wire.read(), wire.read()]
        assert [reply and reply.status for reply in replies] == [200, 200, 400]
        assert wire.read() is None


def test_head_and_options_have_no_body(native: Running) -> None:
    url = f"{native.url}/digits/predict?digits=7&seed=3"
    image, head, options = (http.request(method, url) for method in ("GET", "HEAD", "OPTIONS"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(image.content))
    assert (options.status_code, options.content) == (204, b"")
    assert options.headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert "content-length" not in options.headers


def test_a_path_with_the_version_can_be_cached_for_good_and_one_without_it_must_be_checked(native: Running) -> None:
    reply = http.get(f"{native.url}/predictions/digits?digits=7&seed=3")
    assert reply.headers["cache-control"] == "no-cache"
    version = reply.headers["x-model-version"]
    same = http.get(f"{native.url}/predictions/digits/{version}?digits=7&seed=3")
    assert same.content == reply.content
    assert "immutable" in same.headers["cache-control"]
    assert http.get(f"{native.url}/predictions/digits").headers["cache-control"] == "no-store"


def test_ping_answers_while_the_server_runs(native: Running) -> None:
    assert http.get(f"{native.url}/ping").json() == {"status": "Healthy"}


def test_requests_without_a_valid_key_get_401_and_are_counted(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--auth", "token", engine="native") as server:
        key = json.loads(Path(server.record["token_file"]).read_text())["inference"]["key"]
        url = f"{server.url}/predictions/digits"
        for headers in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": key}):
            refused = http.get(url, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert key not in refused.text
        assert http.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert http.get(f"{server.url}/ping").status_code == 200
        assert reply_to(server, b"\0\r\n\r\n").status == 400
        counted = metrics(str(server.record["metrics_url"]))
        assert counted["ganctl_requests_total", (("model", ""), ("status", "401"))] == 3
        assert counted["ganctl_requests_total", (("model", ""), ("status", "400"))] == 1


def test_small_requests_are_answered_while_a_large_one_is_drawn(gated: Path, gate: Gate, temporary: Path) -> None:
    with running(gated, temporary, "--workers", "1", engine="native") as server:
        gate.close("drawing")
        with Wire(server.url) as wire:
            wire.send(request(body=b'{"count": 256}', headers=[JSON, HELD]))
            wait_for(lambda: gate.waiting("drawing"), "the worker draws the large request")
            for seed in range(20):
                body = {"seed": seed}
                assert http.post(f"{server.url}/predictions/digits", json=body).status_code == 200
            assert not select.select([wire.socket], [], [], 0)[0], "the large request is not answered yet"
            gate.open("drawing")
            reply = wire.read()
        assert reply is not None
        assert reply.status == 200


def test_a_worker_that_ends_is_restarted_and_the_others_go_on(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, engine="native") as server:
        watch = Watch(server)
        before = watch.workers()
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(watch.workers() - before) == 1 and watch.ready() == 2, "the worker is restarted")
        assert max(before) in watch.workers()
        assert metrics(str(server.record["metrics_url"]))["ganctl_worker_starts_total", ()] == 3


def test_a_killed_server_leaves_no_worker(export: Path, temporary: Path) -> None:
    process = start_ganctl("serve", str(export), "--engine", "native", "--port", "0", "--json", temporary=temporary)
    assert process.stdout is not None
    record = json.loads(process.stdout.readline())
    watch = Watch(Running(process, record, temporary, "native"))
    workers = watch.workers()
    process.kill()
    finish(process)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers end")


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a model of digits and one of RGBA images without labels."""
    folder = tmp_path_factory.mktemp("models")
    digits = write_export(folder / "digits")
    faces = write_export(folder / "faces", conditional=False, channels=4, class_names=[])
    words = ("serve", f"digits={digits}", f"faces={faces}", "--engine", "native", "--port", "0", "--json")
    process = start_ganctl(*words, temporary=tmp_path_factory.mktemp("t"))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    yield Running(process, json.loads(line), folder, "native")
    process.terminate()
    finish(process)


def test_each_model_has_its_own_paths_page_description_and_metrics(two_models: Running) -> None:
    versions = {}
    for name, channels in (("digits", 1), ("faces", 4)):
        arrays = http.get(f"{two_models.url}/{name}/predict?count=3&seed=1", headers={"Accept": "application/x-npz"})
        with np.load(io.BytesIO(arrays.content)) as found:
            assert found["images"].ndim == (3 if channels == 1 else 4)
        versions[name] = arrays.headers["x-model-version"]
        page = http.get(f"{two_models.url}/{name}/predict", headers={"Accept": "text/html"})
        assert f'action="../{name}/predict"' in page.text
        openapi = http.get(f"{two_models.url}/predictions/{name}", headers={"Accept": "application/openapi+json"})
        assert set(openapi.json()["paths"]) == {f"/predictions/{name}", f"/{name}/predict"}
        (described,) = http.get(f"{two_models.record['management_url']}/models/{name}").json()
        assert (described["modelName"], described["modelVersion"]) == (name, versions[name])
    counted = metrics(str(two_models.record["metrics_url"]))
    for name, version in versions.items():
        assert counted["ganctl_model_info", (("model", name), ("version", version))] == 1
        assert counted["ganctl_images_total", (("model", name),)] >= 3
    assert http.get(f"{two_models.url}/predictions/letters").status_code == 404


def test_a_version_of_one_model_is_deployed_and_the_other_model_stays(two_models: Running, tmp_path: Path) -> None:
    def versions() -> list[str]:
        replies = [http.get(f"{two_models.url}/predictions/{name}") for name in ("digits", "faces")]
        return [reply.headers["x-model-version"] for reply in replies]

    def deploy(*words: str) -> tuple[int, str]:
        port = two_models.url.rpartition(":")[2]
        process = start_ganctl("deploy", *words, "--port", port, "--json", temporary=tmp_path)
        _, err = finish(process)
        return process.returncode, err

    before = versions()
    export = write_export(tmp_path / "new")
    manifest = json.loads((export / "manifest.json").read_text())
    (export / "manifest.json").write_text(json.dumps(manifest | {"model_version": "bbbbbbbbbbbb"}))
    for words, message in (((str(export),), "--model: "), ((str(export), "--model", "x"), "--model x: ")):
        code, err = deploy(*words)
        assert code == 5
        assert f"{message}" in err
        assert "digits, faces" in err
    assert deploy(str(export), "--model", "digits")[0] == 0
    assert versions() == ["bbbbbbbbbbbb", before[1]]
    assert deploy("--rollback", "--model", "digits")[0] == 0
    assert versions() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a={mar}", "a={mar}"), "the name a twice"),
        (("{mar}", "b={mar}"), "NAME=SOURCE"),
        (("a={mar}", "b={mar}", "--engine", "torchserve"), "--engine native"),
    ],
)
def test_names_of_models_are_checked(words: tuple[str, ...], message: str, export: Path, temporary: Path) -> None:
    engine = () if "--engine" in words else ("--engine", "native")
    process = start_ganctl("serve", *(word.format(mar=export) for word in words), *engine, temporary=temporary)
    _, err = finish(process)
    assert process.returncode == 2
    assert message in err
