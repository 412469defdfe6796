"""`ganctl bench quality`: equal conditions, complete results, no repeated runs, reported failures."""

import io
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.quality.compare import QualityBenchmark, summary
from ganctl.benchmarks.quality.recorder import SNAPSHOTS
from ganctl.benchmarks.quality.samples import samples_picture
from ganctl.benchmarks.systems import System
from ganctl.benchmarks.table import table
from ganctl.training.evaluation.evaluator import Evaluator
from tests.conftest import Ganctl

NAMES = ("lightning-basic-gan", "conv")
RUN_MODULE = "ganctl.benchmarks.quality.compare.run_module"


def quality(out: Path, messages: list[str] | None = None, **changes: Any) -> QualityBenchmark:
    options: dict[str, Any] = {"seconds": 3.0, "seeds": 1, "num_images": 200, "names": NAMES}
    return QualityBenchmark(out, **options | changes, announce=(messages if messages is not None else []).append)


class Blank:
    """A source of black images."""

    latent_dim, conditional, class_names = 1, True, tuple("0123456789")

    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, 28, 28, dtype=torch.uint8)


@dataclass
class Finished:
    out: Path
    results: dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The results of two systems after three seconds each, which is more than the first step takes."""
    out = tmp_path_factory.mktemp("quality")
    return Finished(out, quality(out).run())


@pytest.mark.soak
def test_every_system_is_scored_at_all_snapshots(finished: Finished) -> None:
    unconditional, conv = finished.results["systems"]
    for system in (unconditional, conv):
        (run,) = system["runs"]
        seconds = [point["seconds"] for point in run["curve"]]
        assert seconds == sorted(seconds)
        assert 0 < seconds[0] < seconds[-1] == run["seconds"]
        assert run["curve"][-1]["fd_ratio"] == run["scores"]["fd_ratio"]
        assert run["images_per_second"] == pytest.approx(run["images"] / run["seconds"])
        assert run["scores"]["num_images"] == 200
        assert system["worst_fd_ratio"] == system["mean"]["fd_ratio"] == run["scores"]["fd_ratio"]
        assert {"precision", "recall", "density", "coverage"} <= run["scores"].keys()
    assert unconditional["mean"]["label_accuracy"] is None
    assert conv["mean"]["label_accuracy"] >= 0
    assert json.loads(json.dumps(finished.results)) == finished.results


@pytest.mark.soak
def test_generated_images_have_the_label_frequencies_of_the_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all labels were equally frequent, real images would have twice the Fréchet distance of the floor."""
    label_pairs = []
    score_images = Evaluator.score_images

    def spy(self: Evaluator, images: Tensor, labels: Tensor | None, **options: Any) -> dict[str, Any]:
        label_pairs.append((labels, self.generate(Blank())[1]))
        return score_images(self, images, labels, **options)

    monkeypatch.setattr(Evaluator, "score_images", spy)
    quality(tmp_path, names=["conv"]).run()
    assert label_pairs
    for labels, expected in label_pairs:
        assert labels is not None
        assert expected is not None
        assert labels.equal(expected)
    samples = quality(tmp_path, names=["conv"]).samples("conv", 0)
    assert samples.shape == (20, 28, 28, 1)


@pytest.mark.soak
def test_the_table_has_a_row_for_each_system_and_the_reasons_of_skipped_and_failed_ones(finished: Finished) -> None:
    text = table(finished.results | {"skipped": {"gpu": "no device"}, "failed": {"ns-gan-0": "exit code 1"}})
    scored, _, curve = text.partition("seconds of training")
    head, rule, unconditional, conv = [line for line in scored.splitlines() if line.startswith("|")]
    assert head.count("|") == rule.count("|") == unconditional.count("|") == conv.count("|")
    assert "| KID | KID's standard error |" in head
    head, _, *rows = [line for line in curve.splitlines() if line.startswith("|")]
    assert all(row.count("|") == head.count("|") == SNAPSHOTS + 2 for row in rows)
    assert [row.split("|")[1].strip() for row in rows] == list(NAMES)
    assert unconditional.startswith("| lightning-basic-gan |")
    assert "| – |" in unconditional, "it has no labels"
    assert "| – |" not in conv
    assert re.search(r"\b3 s\b", text)
    assert re.search(r"^- gpu\b.*: no device$", text, re.MULTILINE)
    assert re.search(r"^- ns-gan-0\b.*: exit code 1$", text, re.MULTILINE)


def no_training(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    raise AssertionError(f"a run was started: {arguments}")


@pytest.mark.soak
def test_complete_runs_are_not_repeated(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUN_MODULE, no_training)
    assert quality(finished.out).run() == finished.results


@pytest.mark.soak
def test_a_folder_with_other_settings_is_an_error_before_training(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RUN_MODULE, no_training)
    with pytest.raises(BenchError, match=rf"--out {re.escape(str(finished.out))}: .*{NAMES[0]}-0\.json"):
        quality(finished.out, seconds=4.0, seeds=2).run()


@pytest.mark.soak
def test_runs_of_another_machine_or_version_are_not_mixed_with_new_ones(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RUN_MODULE, no_training)
    monkeypatch.setattr("ganctl.benchmarks.quality.compare.machine", lambda: {"device": "another", "torch": "0"})
    with pytest.raises(BenchError, match=r"of another machine or version"):
        quality(finished.out).run()


@pytest.mark.soak
def test_the_curve_is_a_png_image_with_content(finished: Finished, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed: 'make peers' installs it")
    from ganctl.benchmarks.figures import draw_curves

    draw_curves(finished.results, tmp_path / "fd.png")
    with Image.open(tmp_path / "fd.png") as picture:
        assert picture.width >= 800
        assert len(picture.convert("L").getcolors(256) or []) > 20, "the figure is not empty"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture_has_a_row_for_each_system_and_shows_alpha_on_white(channels: int) -> None:
    pixel = {1: (90,), 3: (200, 30, 60), 4: (200, 30, 60, 0)}[channels]
    images = np.full((3, 16, 16, channels), pixel, np.uint8)
    with Image.open(io.BytesIO(samples_picture([("real", images), ("a long name", images)]))) as picture:
        assert picture.height >= 2 * 48
        shown = {1: (90, 90, 90), 3: pixel, 4: (255, 255, 255)}[channels]
        for y in (10, picture.height - 10):
            assert {picture.getpixel((picture.width - 1 - 48 * i, y)) for i in range(3)} == {shown}


def test_all_systems_run_with_one_seed_before_the_next_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def fail(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        runs.append([word for word in arguments if word.startswith(("--seed=", "--system="))])
        return subprocess.CompletedProcess(arguments, 1, "", "ValueError")

    monkeypatch.setattr(RUN_MODULE, fail)
    quality(tmp_path, seeds=3).run()
    assert runs == [[f"--system={name}", f"--seed={seed}"] for seed in range(3) for name in NAMES]


def scores(distance: float) -> dict[str, float | None]:
    names = ("precision", "recall", "density", "coverage")
    return {"fd": distance, "fd_ratio": distance, "label_accuracy": None, **dict.fromkeys(names, 0.5)}


def test_a_summary_has_the_sample_deviation_and_the_worst_run() -> None:
    runs = [{"scores": scores(d), "images_per_second": 10.0, "seconds": 1.0} for d in (2.0, 4.0, 9.0)]
    result = summary(runs)
    assert result["mean"]["fd_ratio"] == 5
    assert result["std"]["fd_ratio"] == pytest.approx(13**0.5)
    assert result["worst_fd_ratio"] == 9
    assert result["mean"]["label_accuracy"] is None
    assert summary(runs[:1])["std"]["fd_ratio"] is None, "one run has no deviation"


@pytest.mark.soak
def test_a_failed_run_is_reported_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = System("unknown", "a system that the process of the run does not find", preset="conv")
    monkeypatch.setattr("ganctl.benchmarks.quality.compare.systems", lambda: [unknown])
    messages: list[str] = []
    results = quality(tmp_path, messages, names=()).run()
    assert results["systems"] == []
    assert re.search(r"\b1\b.*ValueError", results["failed"]["unknown-0"])
    assert any("unknown" in text and "ValueError" in text for text in messages)
    assert not list((tmp_path / "runs").glob("*.json"))


def test_an_unknown_system_is_an_error_with_the_names_of_all(tmp_path: Path) -> None:
    with pytest.raises(BenchUsageError, match=r"--system: .*\bbest\b.*\btutorial, "):
        quality(tmp_path, names=["best"])


def test_only_unavailable_systems_are_an_error_with_the_reason_and_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    facts = r"tutorial\b.*package lightning\b.*'make bench'.*pip install 'ganctl\[bench\]'"
    messages: list[str] = []
    with pytest.raises(BenchError, match=facts):
        quality(tmp_path, messages, names=["tutorial"])
    (message,) = messages
    assert re.search(facts, message)


@pytest.mark.soak
def test_the_command_writes_all_files_and_prints_one_object(finished: Finished, ganctl: Ganctl) -> None:
    words = ["--seconds", 3, "--draws", 1, "--num-images", 200, "--out", finished.out]
    words += [word for name in NAMES for word in ("--system", name)]
    done = ganctl("bench", "quality", *words, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert [system["name"] for system in record["systems"]] == list(NAMES)
    assert all(Path(path).is_absolute() and Path(path).stat().st_size for path in record["files"].values())
    assert json.loads((finished.out / "results.json").read_text())["systems"][0]["runs"]


def test_the_command_has_help(ganctl: Ganctl) -> None:
    assert "quality" in ganctl("bench", "--help").stdout
    assert "--json" in ganctl("bench", "quality", "--help").stdout
