"""The generator that comes with ganctl: small, as good as its card says, available by name."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import http
from tests.integration.serving.conftest import PROJECT, start_ganctl
from tests.waiting import PATIENCE

FOLDER = PROJECT / "exports" / "pretrained"


def ganctl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "ganctl", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_it_is_small_and_has_its_card() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000
    facts = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
    assert set(facts["files"]) == {"generator.onnx"}
    assert facts["model_version"] in (FOLDER / "card.md").read_text("utf-8")
    assert facts["preset"] == "conv"


def test_it_is_as_good_as_its_card_says(tmp_path: Path) -> None:
    done = ganctl("evaluate", "pretrained", "--split", "val", "--num-images", "5000", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    told = json.loads((FOLDER / "manifest.json").read_text("utf-8"))["checkpoint"]["metrics"]
    assert scores["fd"] == pytest.approx(told["fd"], rel=0.2)
    assert scores["fd"] < 1.6 * scores["fd_floor"]
    assert scores["label_accuracy"] > 0.99


def test_it_draws_without_a_run(tmp_path: Path) -> None:
    done = ganctl("sample", "pretrained", "--text", "2026", "--out", "2026.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "2026.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(ganctl("inspect", "pretrained", "--json", cwd=tmp_path).stdout)["kind"] == "export"


def test_what_lies_in_the_folder_by_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "pretrained").mkdir()
    done = ganctl("sample", "pretrained", "--out", "x.png", cwd=tmp_path)
    assert done.returncode == 4
    assert "pretrained" in done.stderr


def test_serve_without_a_source_serves_it() -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as temporary:
        process = start_ganctl("serve", "--port", "0", "--json", temporary=Path(temporary))
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            asked = {"digits": list(range(10)), "count": 200, "seed": 1}
            reply = http.post(f"{url}/predictions/digits", json=asked, headers={"Accept": "application/x-npz"})
            assert reply.headers["content-type"] == "application/x-npz"
            (Path(temporary) / "digits.npz").write_bytes(reply.content)
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
        read = ganctl(
            "evaluate", str(Path(temporary) / "digits.npz"), "--num-images", "200", "--json", cwd=Path(temporary)
        )
        assert json.loads(read.stdout)["label_accuracy"] > 0.97, read.stderr
