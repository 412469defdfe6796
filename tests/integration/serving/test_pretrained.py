"""The pretrained generator: small, with the scores of its model card, available by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ganctl.files import sha256_of
from tests import http
from tests.integration.serving.conftest import PROJECT, start_ganctl
from tests.waiting import PATIENCE

FOLDER = PROJECT / "exports" / "pretrained"


def ganctl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `ganctl ARGUMENTS` in the folder `cwd`."""
    command = [sys.executable, "-P", "-m", "ganctl", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_pretrained_generator_is_small_and_has_a_model_card() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000
    manifest = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        path.name: sha256_of(path) for path in FOLDER.iterdir() if path.name != "manifest.json"
    }
    assert set(manifest["files"]) == {"generator.onnx", "card.md", "README.md", "samples.png"}
    assert manifest["model_version"] in (FOLDER / "card.md").read_text("utf-8")
    assert manifest["preset"] == "conv"


def test_the_pretrained_generator_reaches_the_scores_of_its_model_card(tmp_path: Path) -> None:
    words = ("--split", "val", "--num-images", "5000", "--measure", "1")  # that of the card
    done = ganctl("evaluate", "pretrained", *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    expected = json.loads((FOLDER / "manifest.json").read_text("utf-8"))["checkpoint"]["metrics"]
    assert scores["fd"] == pytest.approx(expected["fd"], rel=0.2)
    assert scores["fd"] < 1.6 * scores["fd_floor"]
    assert scores["label_accuracy"] > 0.99


@pytest.mark.soak
def test_sample_and_inspect_accept_pretrained_in_an_empty_folder(tmp_path: Path) -> None:
    done = ganctl("sample", "pretrained", "--text", "2026", "--out", "2026.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "2026.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(ganctl("inspect", "pretrained", "--json", cwd=tmp_path).stdout)["kind"] == "export"


@pytest.mark.soak
def test_a_local_folder_named_pretrained_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "pretrained").mkdir()
    done = ganctl("sample", "pretrained", "--out", "x.png", cwd=tmp_path)
    assert done.returncode == 4
    assert "pretrained" in done.stderr


@pytest.mark.soak
def test_serve_without_a_source_serves_the_pretrained_generator(temporary: Path, tmp_path: Path) -> None:
    process = start_ganctl("serve", "--port", "0", "--json", temporary=temporary)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        body = {"digits": list(range(10)), "count": 200, "seed": 1}
        reply = http.post(f"{url}/predictions/digits", json=body, headers={"Accept": "application/x-npz"})
        assert reply.headers["content-type"] == "application/x-npz"
        (tmp_path / "digits.npz").write_bytes(reply.content)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
    done = ganctl("evaluate", "digits.npz", "--num-images", "200", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["label_accuracy"] > 0.97, done.stderr
