"""`ganctl bench serve` with real servers: each has the documented settings and returns the requested images."""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from ganctl.benchmarks.cli import bench
from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.serving.cases import Case
from ganctl.benchmarks.serving.models import prepare
from ganctl.benchmarks.serving.process import run_server
from ganctl.benchmarks.serving.run import ServingBenchmark, measure_all
from ganctl.benchmarks.serving.systems import CEILING, LITSERVE, Models, Target, systems
from ganctl.benchmarks.serving.table import serve_table
from tests import http
from tests.unit.serving.small_export import seen_label, write_export

SHORT = ServingBenchmark(seconds=0.2, repetitions=1, warm_up=0, announce=lambda text: None)


@pytest.fixture(scope="module")
def models(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return prepare(export, tmp_path_factory.mktemp("models"), lambda text: None)


@pytest.fixture(scope="module")
def targets(models: Models) -> dict[str, Target]:
    return {system.name: system for system in systems(models)}


def requested_image(url: str, body: dict[str, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    reply = http.post(url, json=body).raise_for_status()
    with Image.open(io.BytesIO(reply.content)) as image:
        return np.asarray(image, np.uint8)


@pytest.mark.soak
def test_ganctl_and_the_ceiling_are_measured_and_compared(targets: dict[str, Target]) -> None:
    cases = [Case("GET", 4), Case("POST", 128), Case("JSON", 64), Case("grid", 16)]
    results = SHORT.run([targets["onnx-1"], targets[CEILING]], cases)
    ganctl, ceiling = results["systems"]
    assert [case["kind"] for case in ganctl["cases"]] == ["GET", "POST", "JSON", "grid"]
    assert [case["kind"] for case in ceiling["cases"]] == ["GET", "POST"]
    for system, workers in ((ganctl, 1), (ceiling, 2)):
        assert all(case["rates"][0] > 0 for case in system["cases"])
        assert all(case["refused"] == [0] for case in system["cases"])
        assert system["memory"][0]["workers"] == workers
        assert system["memory"][0]["rss"] > 20
    ratio = ganctl["cases"][1]["rates"][0] / ceiling["cases"][1]["rates"][0]
    assert f"| {ratio:.2f} |" in serve_table(results)


@pytest.mark.soak
def test_the_ceiling_answers_every_request_with_the_same_image(models: Models, targets: dict[str, Target]) -> None:
    with run_server(CEILING, targets[CEILING].prepare) as server:
        for body in ({"digits": 1}, {"digits": 2}):
            assert http.post(server.url, json=body).content == models.digit


@pytest.mark.soak
def test_a_stock_torchserve_runs_the_handler_with_default_settings(targets: dict[str, Target], tmp_path: Path) -> None:
    targets["stock"].prepare(tmp_path)
    with zipfile.ZipFile(tmp_path / "store" / "digits.mar") as archive:
        assert yaml.safe_load(archive.read("model-config.yaml")).keys() == {"handler"}
        assert len(archive.namelist()) == len(set(archive.namelist()))
    with run_server("stock", targets["stock"].prepare) as server:
        assert seen_label(requested_image(server.url, {"digits": 7})) == 7
        model = http.get(model_url(server.pid)).json()[0]
        assert (model["batchSize"], model["maxBatchDelay"]) == (1, 100)


def model_url(pid: int) -> str:
    """The URL of the model in the management API of the TorchServe that process `pid` started."""
    folder = Path(f"/proc/{pid}/cwd").readlink()
    lines = (folder / "config.properties").read_text().splitlines()
    return f"{dict(line.split('=', 1) for line in lines)['management_address']}/models/digits"


@pytest.mark.parametrize(("name", "package"), [(LITSERVE, "litserve"), ("fastapi", "fastapi")])
@pytest.mark.soak
def test_a_peer_returns_the_requested_digits(targets: dict[str, Target], name: str, package: str) -> None:
    pytest.importorskip(package, reason=f"the package {package} is not installed: 'make bench' installs it")
    system = targets[name]
    with run_server(name, system.prepare) as server:
        for kind in system.kinds:
            Case(kind, 1).check(server.url)
        for digit in (3, 7):
            assert seen_label(requested_image(server.url, {"digits": digit})) == digit
        grid = requested_image(server.url, {"digits": 4, "count": 3})
        assert grid.shape == (56, 56)
        assert [seen_label(cell) for cell in (grid[:28, :28], grid[:28, 28:], grid[28:, :28])] == [4, 4, 4]
        assert not grid[28:, 28:].any()


def test_measuring_torchscript_alone_needs_an_export_with_torchscript(export: Path, tmp_path: Path) -> None:
    shutil.copytree(export, tmp_path / "export")
    manifest = json.loads((tmp_path / "export" / "manifest.json").read_text())
    del manifest["files"]["generator.ts"]
    (tmp_path / "export" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BenchError, match=r"^torchscript: .*\bgenerator\.ts\b"):
        measure_all(
            source=tmp_path / "export", names=["torchscript"], seconds=0.1, repetitions=1, warm_up=0, announce=print
        )


def test_a_source_without_gray_digits_is_refused(tmp_path: Path) -> None:
    color = write_export(tmp_path / "export", channels=3)
    with pytest.raises(BenchUsageError, match=rf"--source {re.escape(str(color))}: .*'channels': 3\b"):
        prepare(color, tmp_path, print)


def test_bench_serve_writes_a_table_and_a_plot_and_updates_the_document(export: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed: 'make bench' installs it")
    document = tmp_path / "B.md"
    document.write_text("<!-- ganctl bench serve: begins -->\n<!-- ganctl bench serve: ends -->\n")
    arguments = ["serve", "--source", str(export), "--only", "onnx-1", "--seconds", "0.1", "--repetitions", "1"]
    arguments += ["--warm-up", "0", "--into", str(document), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [system["name"] for system in record["systems"]] == ["onnx-1"]
    table = Path(record["files"]["table.md"]).read_text("utf-8")
    assert table in document.read_text("utf-8")
    with Image.open(record["files"]["serving.png"]) as plot:
        assert plot.width > 500
