"""`ganctl bench quality`: equal conditions, complete results, no repeated runs, reported failures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.quality.compare import QualityBenchmark, summary
from ganctl.benchmarks.systems import System
from ganctl.benchmarks.table import table
from ganctl.training.evaluation.evaluator import Evaluator
from tests.conftest import Ganctl

NAMES = ("lightning-basic-gan", "conv")


def quality(out: Path, told: list[str] | None = None, **changes: Any) -> QualityBenchmark:
    wanted: dict[str, Any] = {"seconds": 3.0, "seeds": 1, "num_images": 200, "names": NAMES}
    return QualityBenchmark(out, **wanted | changes, announce=(told if told is not None else []).append)


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
    """Two systems, three seconds each: more than a first step takes anywhere."""
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
        assert {"precision", "recall", "density", "coverage"} <= run["scores"].keys()
    assert unconditional["mean"]["label_accuracy"] is None
    assert conv["mean"]["label_accuracy"] >= 0
    assert json.loads(json.dumps(finished.results)) == finished.results


def test_generated_images_have_the_label_frequencies_of_the_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal frequencies, real images would have twice the Fréchet distance of the floor."""
    seen = []
    score_images = Evaluator.score_images

    def spy(self: Evaluator, images: Tensor, labels: Tensor | None, **options: Any) -> dict[str, Any]:
        seen.append((labels, self.generate(Blank())[1]))
        return score_images(self, images, labels, **options)

    monkeypatch.setattr(Evaluator, "score_images", spy)
    quality(tmp_path, names=["conv"]).run()
    assert seen
    for labels, wanted in seen:
        assert labels is not None
        assert wanted is not None
        assert labels.equal(wanted)
    shown = quality(tmp_path, names=["conv"]).samples("conv", 0)
    assert shown.shape == (20, 1, 28, 28)


def test_the_table_has_a_row_for_each_system_and_the_reasons_of_absent_ones(finished: Finished) -> None:
    text = table(finished.results | {"skipped": {"gpu": "no device"}, "failed": {"ns-gan-0": "it broke"}})
    head, rule, unconditional, conv = [line for line in text.splitlines() if line.startswith("|")]
    assert head.count("|") == rule.count("|") == unconditional.count("|") == conv.count("|")
    assert unconditional.startswith("| lightning-basic-gan |")
    assert "| – |" in unconditional, "it has no labels"
    assert "| – |" not in conv
    assert "3 s of wall clock from its first step" in text
    assert "- gpu was skipped: no device" in text
    assert "- ns-gan-0 failed: it broke" in text


def test_complete_runs_are_not_repeated(finished: Finished) -> None:
    told: list[str] = []
    again = quality(finished.out, told).run()
    assert again == finished.results
    assert not any("training" in text for text in told)


def test_a_folder_with_other_settings_is_an_error_before_training(finished: Finished) -> None:
    told: list[str] = []
    with pytest.raises(BenchError, match=r"--out .*another budget"):
        quality(finished.out, told, seconds=4.0, seeds=2).run()
    assert not told


def test_the_figures_are_valid_images(finished: Finished, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed: 'make bench' installs it")
    from ganctl.benchmarks.figures import draw_curves, draw_samples
    from ganctl.benchmarks.quality.compare import real_samples

    comparison = quality(finished.out)
    rows = [("real images", real_samples()), *((name, comparison.samples(name, 0)) for name in NAMES)]
    draw_samples(rows, tmp_path / "samples.png")
    draw_curves(finished.results, tmp_path / "fd.png")
    for name in ("samples.png", "fd.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width >= 800
            assert len(picture.convert("L").getcolors(256) or []) > 20, "something is drawn"


def test_seeds_are_interleaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def train(self: QualityBenchmark, system: System, seed: int) -> dict[str, Any]:
        order.append((seed, system.name))
        return {"seed": seed, **dict.fromkeys(("images_per_second", "seconds"), 1.0), "scores": scores(seed)}

    monkeypatch.setattr(QualityBenchmark, "_train", train)
    results = quality(tmp_path, seeds=3).run()
    assert order == [(seed, name) for seed in range(3) for name in NAMES]
    assert results["systems"][0]["worst_fd_ratio"] == 2


def scores(distance: float) -> dict[str, float | None]:
    names = ("precision", "recall", "density", "coverage")
    return {"fd_ratio": distance, "label_accuracy": None, **dict.fromkeys(names, 0.5)}


def test_a_summary_has_the_sample_deviation_and_the_worst_run() -> None:
    runs = [{"scores": scores(d), "images_per_second": 10.0, "seconds": 1.0} for d in (2.0, 4.0, 9.0)]
    found = summary(runs)
    assert found["mean"]["fd_ratio"] == 5
    assert found["std"]["fd_ratio"] == pytest.approx(13**0.5)
    assert found["worst_fd_ratio"] == 9
    assert found["mean"]["label_accuracy"] is None
    assert summary(runs[:1])["std"]["fd_ratio"] is None, "one run has no deviation"


def test_a_failed_run_is_reported_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ganctl.benchmarks.quality.compare.systems", lambda: [System("nobody", "unknown to the child", preset="conv")]
    )
    told: list[str] = []
    results = quality(tmp_path, told, names=()).run()
    assert results["systems"] == []
    assert results["failed"]["nobody-0"].startswith("exit code 1: ValueError")
    assert any("nobody, seed 0 failed" in text for text in told)
    assert not list((tmp_path / "runs").glob("*.json"))


def test_unknown_and_unavailable_systems_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchUsageError, match="--system: found best, expected one of tutorial,"):
        quality(tmp_path, names=["best"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told: list[str] = []
    with pytest.raises(BenchError, match="no system can run here: tutorial: it needs the package lightning"):
        quality(tmp_path, told, names=["tutorial"])
    assert told == ["tutorial is skipped: it needs the package lightning: install it with 'make bench' (in a checkout)"
                    " or pip install 'ganctl[bench]'"]  # fmt: skip


def test_the_command_writes_all_files_and_prints_one_object(finished: Finished, ganctl: Ganctl) -> None:
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed: 'make bench' installs it")
    words = ["--seconds", 3, "--seeds", 1, "--num-images", 200, "--out", finished.out]
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
