"""Invalid scores are null, with the reason, and give no summary: the scoring classifier has learned nothing, or there
are too few images. Such a run still has a best checkpoint."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
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
from ganctl.training.config.schema import CheckpointSettings, DataSettings, EarlyStoppingSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.network import Classifier
from ganctl.training.evaluation.validity import find_scorer_fault, too_few_images
from ganctl.training.loop.session import Session
from tests.conftest import SMALL
from tests.unit.training.conftest import RegisterData

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "precision", "recall", "density", "coverage")
PREDICTION_SCORES = ("label_accuracy", "class_accuracy", "class_balance", "inception_score")
ONE_CLASS = str(find_scorer_fault(Classifier(1, 1, 49)))


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains the scoring classifier for 80 steps, which is enough for the simple data sets of this file."""
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 80)


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def load_discs(settings: DataSettings, split: Split) -> ImageSet:
    n, seed = {"train": (600, 0), "val": (300, 1), "test": (300, 2)}[split]
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:28, :28]
    y, x = rng.integers(9, 19, (2, n, 1, 1))
    images = ((rows - y) ** 2 + (columns - x) ** 2 < 64) * 200 + rng.integers(0, 30, (n, 28, 28))
    return ImageSet(torch.from_numpy(images.astype(np.uint8))[:, None], torch.zeros(n, dtype=torch.int64), ("disc",))


def load_unlabeled(settings: DataSettings, split: Split) -> ImageSet:
    return replace(load_discs(settings, split), class_names=())


def load_constant(settings: DataSettings, split: Split) -> ImageSet:
    labels = torch.arange(400) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28).contiguous()
    return ImageSet(images, labels, ("black", "white"))


def load_coin(settings: DataSettings, split: Split) -> ImageSet:
    """Digits with random labels."""
    whole = load_split(DataSettings(), split)
    labels = torch.randint(2, (300,), generator=torch.Generator().manual_seed(len(whole)))
    return ImageSet(whole.images[:300], labels, ("heads", "tails"))


def load_few(settings: DataSettings, split: Split) -> ImageSet:
    """A few images of dark and of light noise."""
    n = {"train": 64, "val": 12, "test": 12}[split]
    labels = torch.arange(n) % 2
    images = noise(n, n + len(split)) // 4 + (labels * 190).to(torch.uint8)[:, None, None, None]
    return ImageSet(images, labels, ("dark", "light"))


def evaluate(images: Tensor, data: str, folder: Path, *words: object) -> Result:
    """Runs `ganctl evaluate` on a file, in this process: another one would spend most of the time importing torch."""
    file = folder / "generated.npz"
    np.savez(file, images=images[:, 0].numpy(), labels=np.arange(len(images)) % 1)
    return CliRunner().invoke(cli, ["evaluate", str(file), "--set", f"data.source={data}", *map(str, words)])


def record_of(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record: dict[str, Any] = json.loads(done.stdout, parse_constant=refuse)
    return record


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("load", [load_discs, load_unlabeled])
def test_data_with_one_class_or_without_labels_have_no_scores(
    tmp_path: Path, load: Callable[[DataSettings, Split], ImageSet], split: Split, register_data: RegisterData
) -> None:
    register_data("test-discs", load)
    for images in (noise(300), load_discs(DataSettings(), "val").images):
        record = record_of(evaluate(images, "test-discs", tmp_path, "--split", split, "--json"))
        assert {record[name] for name in (*FEATURE_SCORES, *PREDICTION_SCORES)} == {None}
        assert record["no_summary"] == ONE_CLASS
        assert (record["scorer_accuracy"], record["num_images"]) == (None, 300)
        output = evaluate(images, "test-discs", tmp_path, "--split", split).stdout
        assert ONE_CLASS in output
        assert "×" not in output
        assert "floor" not in output


@pytest.mark.usefixtures("short_training")
def test_data_with_random_labels_have_no_scores(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-coin", load_coin)
    record = record_of(evaluate(noise(300), "test-coin", tmp_path, "--json"))
    assert {record[name] for name in (*FEATURE_SCORES, *PREDICTION_SCORES)} == {None}
    accuracy = record["scorer_accuracy"]
    assert 0.3 < accuracy < 0.7
    assert f"{accuracy:.1%}" in record["no_summary"]
    output = evaluate(noise(300), "test-coin", tmp_path).stdout
    assert f"{accuracy:.2%}" in output
    assert "×" not in output
    refused = evaluate(noise(300), "test-coin", tmp_path, "--cas")
    assert refused.exit_code == 4
    assert f"--cas: {record['no_summary']}" in refused.stderr


@pytest.mark.usefixtures("short_training")
def test_constant_images_have_finite_scores_and_no_floor(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-constant", load_constant)
    record = record_of(evaluate(noise(300), "test-constant", tmp_path, "--json"))
    assert record["fd_ratio"] is None
    assert record["no_summary"] == too_few_images(300, 2)
    assert record["memorisation"]["flagged"] is None
    assert record["scorer_accuracy"] == 1


@pytest.mark.usefixtures("short_training")
def test_few_images_have_a_distance_but_no_summary(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-few", load_few)
    images, reason = load_few(DataSettings(), "val").images, too_few_images(12, 12)
    assert reason is not None
    assert re.search(r"\b12\b.*\b12\b.*\b200\b", reason)
    done = evaluate(images, "test-few", tmp_path)
    assert reason in done.stdout
    assert "×" not in done.stdout
    record = record_of(evaluate(images, "test-few", tmp_path, "--json"))
    assert record["no_summary"] == reason
    assert record["fd"] > 0, "it ranks checkpoints"
    assert {record[name] for name in FEATURE_SCORES[1:]} == {None}
    assert {value for name, value in record["memorisation"].items() if name != "num_images"} == {None}


@pytest.mark.parametrize(("n", "has_summary"), [(199, False), (200, True)])
def test_a_summary_needs_200_images(tmp_path: Path, n: int, has_summary: bool) -> None:
    record = record_of(evaluate(load_split(DataSettings(), "val").images[:n], "mnist", tmp_path, "--json"))
    assert (record["no_summary"] is None) == has_summary
    assert (record["fd_ratio"] is not None) == has_summary
    assert record["scorer_accuracy"] == 0.9959


@pytest.mark.parametrize(
    ("accuracy", "majority", "images", "classes", "valid"),
    [
        (0.9959, 0.1135, 10_000, 10, True),
        (0.65, 0.1, 1_000, 10, True),
        (1.0, 0.5, 12, 2, True),
        (1.0, 1.0, 1_000, 1, False),
        (1.0, 0.9524, 21, 2, False),  # 200 : 3
        (0.55, 0.5, 200, 2, False),
        (0.98, 0.98, 10_000, 2, False),
        (0.11, 0.1, 100_000, 10, False),  # significantly above chance, but useless
        (1.0, 0.5, 2, 2, False),
    ],
)
def test_a_scoring_classifier_is_valid_only_if_it_clearly_beats_the_majority_guess(
    accuracy: float, majority: float, images: int, classes: int, valid: bool
) -> None:
    classifier = Classifier(1, classes, 49)
    classifier.metadata = {"test_accuracy": f"{accuracy}", "test_majority": f"{majority}", "test_images": f"{images}"}
    reason = find_scorer_fault(classifier)
    assert (reason is None) == valid
    shares = re.findall(r"([\d.]+)%", reason or "")
    assert all(float(share) <= 100 for share in shares), "no accuracy is expected that no classifier has"
    assert bool(shares) == (not valid and classes > 1)


@pytest.mark.parametrize(
    ("monitor", "load"),
    [("fd", load_discs), ("fd_ratio", load_discs), ("label_accuracy", load_discs), ("fd", load_unlabeled)],
)
def test_without_scores_the_latest_checkpoint_is_best_and_nothing_stops_the_run(
    tmp_path: Path, monitor: str, load: Callable[[DataSettings, Split], ImageSet], register_data: RegisterData
) -> None:
    register_data("test-discs", load)
    settings = (
        *SMALL, "data.source=test-discs", "train.batch_size=32",
        "train.duration=160 images", "evaluation.every=32 images",
        f"checkpoint.monitor={monitor}", "checkpoint.monitor_threshold=1e9",
        f"early_stopping.monitor={monitor}", "early_stopping.patience=1", "early_stopping.stopping_threshold=1e9",
    )  # fmt: skip
    result = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit()
    assert (result.stop_reason, result.steps) == ("completed", 5)
    assert result.metrics["step"] == 5, "the step of the best checkpoint"
    assert result.metrics["no_summary"].startswith(ONE_CLASS)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")} == {
        "step-00000004.safetensors", "step-00000005.safetensors"
    }  # fmt: skip
    for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines():
        assert "NaN" not in line


def test_checkpoints_with_a_score_come_before_those_without() -> None:
    checkpoint = Checkpoint(CheckpointSettings(save_top_k=3))
    for step, score in enumerate([None, 7.0, float("nan"), 5.0, None], start=1):
        checkpoint.register(step, step, {"fd": score}, fresh=True)
    assert [step for _, step, _ in checkpoint.ranking] == [4, 2, 5]


def test_early_stopping_ignores_evaluations_without_a_score() -> None:
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


def test_reject_misread_is_refused_for_a_generator_of_unlabeled_images(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-discs", load_unlabeled)
    settings = (*SMALL, "data.source=test-discs", "train.batch_size=32", "train.duration=32 images")
    run = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit().run_dir
    done = CliRunner().invoke(cli, ["sample", str(run), "--reject-misread", "--out", str(tmp_path / "generated.png")])
    assert done.exit_code == 2, done.output
    assert re.search(r"--reject-misread: .*\bunconditional\b", done.stderr)
    assert ONE_CLASS in CliRunner().invoke(cli, ["inspect", str(run)]).stdout


def test_reject_misread_is_refused_if_the_scoring_classifier_is_invalid(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-discs", load_discs)
    settings = (*SMALL, "data.source=test-discs", "train.batch_size=32", "train.duration=32 images")
    run = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit().run_dir
    done = CliRunner().invoke(cli, ["sample", str(run), "--reject-misread", "--out", str(tmp_path / "generated.png")])
    assert done.exit_code == DataError.exit_code == 4, done.output
    assert f"--reject-misread: {ONE_CLASS}" in done.stderr
    assert ONE_CLASS in CliRunner().invoke(cli, ["inspect", str(run)]).stdout
    export = CliRunner().invoke(cli, ["export", str(run), "--out", str(tmp_path / "export")])
    assert export.exit_code == 0, export.output
    assert ONE_CLASS in (tmp_path / "export" / "card.md").read_text()


def test_the_last_lines_of_train_report_the_accuracy_of_the_scoring_classifier(small_run: Path) -> None:
    words = ["train", "--run-dir", str(small_run), "--resume", "auto", "--max-steps", "40"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "99.59%" in done.stdout
