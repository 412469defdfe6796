"""Scores that have no meaning are null, with the reason: no summary where the scoring classifier has learnt nothing, or
of a handful of images. Such a run still has a best checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from ganctl.main import cli
from ganctl.training.callbacks.checkpoints import Checkpoint
from ganctl.training.callbacks.stopping import EarlyStopping
from ganctl.training.config.registry import DATASETS
from ganctl.training.config.schema import CheckpointSettings, DataSettings, EarlyStoppingSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.network import Classifier
from ganctl.training.evaluation.validity import find_scorer_fault
from ganctl.training.loop.session import Session
from tests.conftest import SMALL

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "precision", "recall", "density", "coverage")
READINGS = ("label_accuracy", "class_accuracy", "class_balance", "inception_score")
ONE = "the data have one class"
FEW = "expected 200 or more of each"


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scoring classifier learns these simple sets in eighty steps."""
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 80)


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def registered(name: str, load: Callable[[Split], ImageSet]) -> str:
    """A data set of one's own."""
    if name not in DATASETS.names():
        DATASETS.register(name)(lambda settings, split: load(split))
    return name


def _discs(split: Split) -> ImageSet:
    n, seed = {"train": (600, 0), "val": (300, 1), "test": (300, 2)}[split]
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:28, :28]
    y, x = rng.integers(9, 19, (2, n, 1, 1))
    images = ((rows - y) ** 2 + (columns - x) ** 2 < 64) * 200 + rng.integers(0, 30, (n, 28, 28))
    return ImageSet(torch.from_numpy(images.astype(np.uint8))[:, None], torch.zeros(n, dtype=torch.int64), ("disc",))


def _constant(split: Split) -> ImageSet:
    labels = torch.arange(400) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28).contiguous()
    return ImageSet(images, labels, ("black", "white"))


def _coin(split: Split) -> ImageSet:
    """Digits whose labels were drawn by lot."""
    whole = load_split(DataSettings(), split)
    labels = torch.randint(2, (300,), generator=torch.Generator().manual_seed(len(whole)))
    return ImageSet(whole.images[:300], labels, ("heads", "tails"))


def _few(split: Split) -> ImageSet:
    """Black and white noise, which nobody mistakes for each other."""
    n = {"train": 64, "val": 12, "test": 12}[split]
    labels = torch.arange(n) % 2
    images = noise(n, n + len(split)) // 4 + (labels * 190).to(torch.uint8)[:, None, None, None]
    return ImageSet(images, labels, ("dark", "light"))


def evaluate(images: Tensor, data: str, folder: Path, *words: object) -> Result:
    """`ganctl evaluate` of a file, in this process: importing torch anew would be most of the time."""
    file = folder / "drawn.npz"
    np.savez(file, images=images[:, 0].numpy(), labels=np.arange(len(images)) % 1)
    return CliRunner().invoke(cli, ["evaluate", str(file), "--set", f"data.name={data}", *map(str, words)])


def record_of(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record: dict[str, Any] = json.loads(done.stdout, parse_constant=refuse)
    return record


@pytest.mark.parametrize("split", ["test", "val"])
def test_with_one_class_nothing_is_scored_be_it_noise_or_the_real_thing(tmp_path: Path, split: Split) -> None:
    data = registered("test-discs", _discs)
    for images in (noise(300), _discs("val").images):
        record = record_of(evaluate(images, data, tmp_path, "--split", split, "--json"))
        assert {record[name] for name in (*FEATURE_SCORES, *READINGS)} == {None}
        assert record["no_summary"].startswith(ONE)
        assert FEW not in record["no_summary"]
        assert (record["scorer_accuracy"], record["num_images"]) == (None, 300)
        told = evaluate(images, data, tmp_path, "--split", split).stdout
        assert f"no summary: {ONE}" in told
        assert "×" not in told
        assert "floor" not in told


@pytest.mark.usefixtures("short_training")
def test_where_labels_are_drawn_by_lot_nothing_is_scored(tmp_path: Path) -> None:
    data = registered("test-coin", _coin)
    record = record_of(evaluate(noise(300), data, tmp_path, "--json"))
    assert {record[name] for name in (*FEATURE_SCORES, *READINGS)} == {None}
    assert "held-out images right, expected at least" in record["no_summary"]
    assert 0.3 < record["scorer_accuracy"] < 0.7
    told = evaluate(noise(300), data, tmp_path).stdout
    assert f"the scoring classifier reads {record['scorer_accuracy']:.2%} of held-out images right" in told
    assert "×" not in told
    refused = evaluate(noise(300), data, tmp_path, "--cas")
    assert refused.exit_code == 4
    assert "--cas: the scoring classifier reads" in refused.stderr


@pytest.mark.usefixtures("short_training")
def test_constant_classes_have_no_floor_and_finite_scores(tmp_path: Path) -> None:
    data = registered("test-constant", _constant)
    record = record_of(evaluate(noise(300), data, tmp_path, "--json"))
    assert record["fd_ratio"] is None
    assert "2 distinct real images" in record["no_summary"]
    assert record["memorisation"]["flagged"] is None
    assert record["scorer_accuracy"] == 1


@pytest.mark.usefixtures("short_training")
def test_of_a_handful_of_images_there_is_a_distance_and_no_verdict(tmp_path: Path) -> None:
    data = registered("test-few", _few)
    done = evaluate(_few("val").images, data, tmp_path)
    assert "no summary: found 12 generated and 12 distinct real images" in done.stdout
    assert "×" not in done.stdout
    record = record_of(evaluate(_few("val").images, data, tmp_path, "--json"))
    assert record["fd"] > 0, "it orders checkpoints"
    assert {record[name] for name in FEATURE_SCORES[1:]} == {None}
    assert {value for name, value in record["memorisation"].items() if name != "num_images"} == {None}


@pytest.mark.parametrize(("n", "real"), [(199, False), (200, True)])
def test_digits_have_a_verdict_from_two_hundred_on(tmp_path: Path, n: int, real: bool) -> None:
    record = record_of(evaluate(load_split(DataSettings(), "val").images[:n], "mnist", tmp_path, "--json"))
    assert (record["no_summary"] is None) == real
    assert (record["fd_ratio"] is not None) == real
    assert record["scorer_accuracy"] == 0.9959


@pytest.mark.parametrize(
    ("accuracy", "majority", "images", "classes", "sound"),
    [
        (0.9959, 0.1135, 10_000, 10, True),
        (0.65, 0.1, 1_000, 10, True),
        (1.0, 0.5, 12, 2, True),
        (1.0, 1.0, 1_000, 1, False),
        (1.0, 0.9524, 21, 2, False),  # 200 : 3
        (0.55, 0.5, 200, 2, False),
        (0.98, 0.98, 10_000, 2, False),
        (0.11, 0.1, 100_000, 10, False),  # more than chance for certain, and of no use
        (1.0, 0.5, 2, 2, False),
    ],
)
def test_a_scorer_has_learnt_what_chance_and_the_largest_class_do_not_explain(
    accuracy: float, majority: float, images: int, classes: int, sound: bool
) -> None:
    classifier = Classifier(1, classes, 49)
    classifier.metadata = {"test_accuracy": f"{accuracy}", "test_majority": f"{majority}", "test_images": f"{images}"}
    assert (find_scorer_fault(classifier) is None) == sound


@pytest.mark.parametrize("monitor", ["fd", "fd_ratio", "label_accuracy"])
def test_without_scores_the_latest_checkpoint_is_best_and_nothing_stops_the_run(tmp_path: Path, monitor: str) -> None:
    data = registered("test-discs", _discs)
    settings = (
        *SMALL, f"data.name={data}", "train.batch_size=32", "train.duration=160 images", "evaluation.every=32 images",
        f"checkpoint.monitor={monitor}", "checkpoint.monitor_threshold=1e9",
        f"early_stopping.monitor={monitor}", "early_stopping.patience=1", "early_stopping.stopping_threshold=1e9",
    )  # fmt: skip
    result = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit()
    assert (result.stop_reason, result.steps) == ("completed", 5)
    assert result.metrics["step"] == 5, "that of the best checkpoint"
    assert result.metrics["no_summary"].startswith(ONE)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")} == {
        "step-00000004.safetensors", "step-00000005.safetensors"
    }  # fmt: skip
    for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines():
        assert "NaN" not in line


def test_checkpoints_with_a_score_come_before_those_without() -> None:
    store = Checkpoint(CheckpointSettings(save_top_k=3))
    for step, score in enumerate([None, 7.0, float("nan"), 5.0, None], start=1):
        store.register(step, step, {"fd": score}, fresh=True)
    assert [step for _, step, _ in store.ranking] == [4, 2, 5]


def test_early_stopping_does_not_count_what_has_no_score() -> None:
    class Run:
        stopped = ""

        def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
            self.stopped = reason

    run, stopping = Run(), EarlyStopping(EarlyStoppingSettings(patience=1, stopping_threshold=1.0))
    for score in (None, float("nan"), 9.0, None, None):
        stopping.on_evaluation(run, {"fd": score})  # type: ignore[arg-type]
    assert run.stopped == ""
    stopping.on_evaluation(run, {"fd": 9.0})  # type: ignore[arg-type]
    assert run.stopped == "early-stopping"


def test_verified_is_refused_where_the_classifier_has_learnt_nothing(tmp_path: Path) -> None:
    data = registered("test-discs", _discs)
    settings = (*SMALL, f"data.name={data}", "train.batch_size=32", "train.duration=32 images")
    run = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit().run_dir
    done = CliRunner().invoke(cli, ["sample", str(run), "--reject-misread", "--out", str(tmp_path / "drawn.png")])
    assert done.exit_code == DataError.exit_code == 4
    assert f"--reject-misread: {ONE}" in done.stderr
    assert "Leave --reject-misread out" in done.stderr
    told = CliRunner().invoke(cli, ["inspect", str(run)]).stdout
    assert ONE in told
    export = CliRunner().invoke(cli, ["export", str(run), "--out", str(tmp_path / "export")])
    assert export.exit_code == 0, export.output
    card = (tmp_path / "export" / "card.md").read_text()
    assert f"No summary: {ONE}" in card


def test_the_last_lines_of_train_say_how_good_the_scorer_is(small_run: Path) -> None:
    words = ["train", "--run-dir", str(small_run), "--resume", "auto", "--max-steps", "40"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "the scoring classifier reads 99.59% of held-out images right" in done.stdout
