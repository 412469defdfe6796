"""Invalid scores are null, with the reason: label scores if the classifier that reads the labels has learned nothing,
and nearly all scores if there are too few images. Such a run still has a best checkpoint."""

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
from ganctl.training.evaluation.label_classifier import load_label_classifier
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.evaluation.summary import score_line
from ganctl.training.evaluation.validity import (
    NO_CLASSES,
    LabelSkill,
    find_scorer_fault,
    mask_invalid_scores,
    too_few_images,
)
from ganctl.training.loop.session import Session
from tests.conftest import SMALL
from tests.unit.training.conftest import RegisterData
from tests.unit.training.digits import CPU, load_digits

FEATURE_SCORES = ("fd", "fd_floor", "fd_ratio", "kid", "kid_se", "precision", "recall", "density", "coverage")
PREDICTION_SCORES = ("label_accuracy", "class_accuracy", "class_balance", "inception_score")


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains the classifier of measure 1 for 80 steps, which is enough for the simple data sets of this file."""
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
    labels = torch.arange(120) % 2
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


@pytest.mark.parametrize("load", [load_discs, load_unlabeled])
def test_data_with_one_class_or_without_labels_have_distances_but_no_label_scores(
    tmp_path: Path, load: Callable[[DataSettings, Split], ImageSet], register_data: RegisterData
) -> None:
    register_data("test-discs", load)
    records = []
    for images in (noise(300), load_discs(DataSettings(), "val").images):
        record = record_of(evaluate(images, "test-discs", tmp_path, "--json"))
        assert all(record[name] is not None for name in FEATURE_SCORES)
        assert {record[name] for name in PREDICTION_SCORES} == {None}
        assert (record["scorer_fault"], record["no_summary"]) == (NO_CLASSES, None)
        assert (record["scorer_accuracy"], record["scorer_weak"], record["num_images"]) == (None, False, 300)
        assert record["measure"] == MEASURE
        records.append(record)
    far, near = records
    assert near["kid"] < 3 * near["kid_se"]
    assert near["coverage"] > 0.9
    assert far["kid"] > 20 * far["kid_se"]
    assert far["coverage"] < 0.1
    output = evaluate(noise(300), "test-discs", tmp_path).stdout
    assert f"no label scores: {NO_CLASSES}" in output
    assert "no summary" not in output
    assert "× the floor" in output


def test_data_with_random_labels_have_distances_but_no_label_scores(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-coin", load_coin)
    record = record_of(evaluate(noise(300), "test-coin", tmp_path, "--json"))
    assert all(record[name] is not None for name in FEATURE_SCORES)
    assert {record[name] for name in PREDICTION_SCORES} == {None}
    accuracy = record["scorer_accuracy"]
    assert 0.3 < accuracy < 0.7
    assert f"{accuracy:.1%}" in record["scorer_fault"]
    assert record["no_summary"] is None
    output = evaluate(noise(300), "test-coin", tmp_path).stdout
    assert f"no label scores: {record['scorer_fault']}" in output
    refused = evaluate(noise(300), "test-coin", tmp_path, "--cas")
    assert refused.exit_code == 4
    assert f"--cas: {record['scorer_fault']}" in refused.stderr


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("load", [load_discs, load_unlabeled, load_coin])
def test_features_of_a_classifier_that_learned_nothing_give_no_scores_at_all(
    tmp_path: Path, load: Callable[[DataSettings, Split], ImageSet], register_data: RegisterData
) -> None:
    register_data("test-any", load)
    record = record_of(evaluate(noise(300), "test-any", tmp_path, "--measure", 1, "--json"))
    assert {record[name] for name in (*FEATURE_SCORES, *PREDICTION_SCORES)} == {None}
    assert record["measure"] == 1
    assert record["no_summary"] == record["scorer_fault"]
    assert (record["scorer_fault"] == NO_CLASSES) == (load is not load_coin)
    output = evaluate(noise(300), "test-any", tmp_path, "--measure", 1).stdout
    assert record["no_summary"] in output
    assert "×" not in output


def test_constant_images_have_finite_scores_and_no_floor(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-constant", load_constant)
    record = record_of(evaluate(noise(120), "test-constant", tmp_path, "--json"))
    assert (record["fd_ratio"], record["kid"]) == (None, None)
    assert record["no_summary"] == too_few_images(120, 2)
    assert record["memorisation"]["flagged"] is None
    assert record["scorer_accuracy"] == 1


def test_few_images_have_a_distance_but_no_summary(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-few", load_few)
    images, reason = load_few(DataSettings(), "val").images, too_few_images(12, 12)
    assert reason is not None
    assert re.search(r"\b12\b.*\b12\b.*\b100\b", reason)
    done = evaluate(images, "test-few", tmp_path)
    assert reason in done.stdout
    assert "×" not in done.stdout
    record = record_of(evaluate(images, "test-few", tmp_path, "--json"))
    assert record["no_summary"] == reason
    assert record["fd"] > 0, "it ranks checkpoints"
    assert {record[name] for name in FEATURE_SCORES[1:]} == {None}
    assert {value for name, value in record["memorisation"].items() if name != "num_images"} == {None}


@pytest.mark.parametrize(("n", "has_summary"), [(99, False), (100, True)])
def test_a_summary_needs_100_images(tmp_path: Path, n: int, has_summary: bool, register_data: RegisterData) -> None:
    register_data("test-digits", load_digits)
    images = load_digits(DataSettings(), "val").images[:n]
    record = record_of(evaluate(images, "test-digits", tmp_path, "--json"))
    assert (record["no_summary"] is None) == has_summary
    assert (record["fd_ratio"] is not None) == has_summary
    assert (record["kid"] is not None) == has_summary
    classifier = load_label_classifier(DataSettings(source="test-digits"), CPU)
    assert classifier is not None
    assert record["scorer_accuracy"] == classifier.skill.accuracy > 0.85


@pytest.mark.parametrize(
    ("skill", "valid"),
    [
        (LabelSkill(0.9959, 0.1135, 10_000), True),
        (LabelSkill(0.65, 0.1, 1_000), True),
        (LabelSkill(1.0, 0.5, 12), True),
        (LabelSkill(1.0, 1.0, 1_000), False),
        (LabelSkill(1.0, 0.9524, 21), False),  # 200 : 3
        (LabelSkill(0.55, 0.5, 200), False),
        (LabelSkill(0.98, 0.98, 10_000), False),
        (LabelSkill(0.11, 0.1, 100_000), False),  # significantly above chance, but useless
        (LabelSkill(1.0, 0.5, 2), False),
    ],
)
def test_label_scores_are_valid_only_if_the_classifier_clearly_beats_the_majority_guess(
    skill: LabelSkill, valid: bool
) -> None:
    reason = find_scorer_fault(skill)
    assert (reason is None) == valid
    shares = re.findall(r"([\d.]+)%", reason or "")
    assert all(float(share) <= 100 for share in shares), "no accuracy is expected that no classifier has"
    assert bool(shares) == (not valid)


@pytest.mark.parametrize(("accuracy", "weak"), [(0.54, True), (0.56, False)])
def test_a_classifier_that_makes_more_than_half_of_the_errors_of_a_constant_guess_is_called_weak(
    accuracy: float, weak: bool
) -> None:
    distances = {"fd": 9.0, "fd_floor": 3.0, "kid": 1.0, "kid_se": 0.1, "label_accuracy": 0.5}
    skill = LabelSkill(accuracy, 0.1, 1_000)
    scores = mask_invalid_scores(distances, skill, too_few=None, features_need_skill=False)
    assert scores["scorer_weak"] == weak
    assert scores["label_accuracy"] == 0.5
    assert ("weak" in score_line(scores | {"split": "test"})) == weak


def test_a_classifier_that_learned_nothing_is_not_called_weak() -> None:
    skill = LabelSkill(0.11, 0.1, 1_000)
    scores = mask_invalid_scores({"label_accuracy": 0.5}, skill, too_few=None, features_need_skill=False)
    assert (scores["label_accuracy"], scores["scorer_weak"]) == (None, False)
    assert scores["scorer_fault"] is not None


@pytest.mark.parametrize(
    ("monitor", "load"), [("label_accuracy", load_discs), ("fd_ratio", load_few), ("kid", load_few)]
)
def test_without_scores_the_latest_checkpoint_is_best_and_nothing_stops_the_run(
    tmp_path: Path, monitor: str, load: Callable[[DataSettings, Split], ImageSet], register_data: RegisterData
) -> None:
    register_data("test-any", load)
    settings = (
        *SMALL, "data.source=test-any", "train.batch_size=32",
        "train.duration=160 images", "evaluation.every=32 images",
        f"checkpoint.monitor={monitor}", "checkpoint.monitor_threshold=1e9",
        f"early_stopping.monitor={monitor}", "early_stopping.patience=1", "early_stopping.stopping_threshold=1e9",
    )  # fmt: skip
    result = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit()
    assert (result.stop_reason, result.steps) == ("completed", 5)
    assert result.metrics["step"] == 5, "the step of the best checkpoint"
    assert result.metrics[monitor] is None
    assert result.metrics["fd"] > 0
    assert result.metrics["no_summary"] == (too_few_images(12, 12) if load is load_few else None)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")} == {
        "step-00000004.safetensors", "step-00000005.safetensors"
    }  # fmt: skip
    for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines():
        assert "NaN" not in line


def test_a_run_on_unlabeled_images_ranks_its_checkpoints_by_their_scores(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-discs", load_unlabeled)
    settings = (
        *SMALL, "data.source=test-discs", "train.batch_size=32",
        "train.duration=96 images", "evaluation.every=32 images", "checkpoint.monitor=kid",
    )  # fmt: skip
    result = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit()
    rows = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    kids = {row["step"]: row["evaluation"]["kid"] for row in rows if "evaluation" in row}
    assert result.metrics["step"] == min(kids, key=lambda step: kids[step])
    assert result.metrics["fd"] > 0
    assert (result.metrics["label_accuracy"], result.metrics["scorer_fault"]) == (None, NO_CLASSES)


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
    assert NO_CLASSES in CliRunner().invoke(cli, ["inspect", str(run)]).stdout


def test_reject_misread_is_refused_if_the_label_classifier_is_invalid(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-discs", load_discs)
    settings = (*SMALL, "data.source=test-discs", "train.batch_size=32", "train.duration=32 images")
    run = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit().run_dir
    done = CliRunner().invoke(cli, ["sample", str(run), "--reject-misread", "--out", str(tmp_path / "generated.png")])
    assert done.exit_code == DataError.exit_code == 4, done.output
    assert f"--reject-misread: {NO_CLASSES}" in done.stderr


def test_the_card_of_an_export_has_no_summary_but_its_reason(tmp_path: Path, register_data: RegisterData) -> None:
    register_data("test-few", load_few)
    settings = (*SMALL, "data.source=test-few", "train.batch_size=32", "train.duration=32 images")
    run = Session(preset="conv", assignments=settings, run_dir=tmp_path / "run").build().fit().run_dir
    reason = str(too_few_images(12, 12))
    assert reason in CliRunner().invoke(cli, ["inspect", str(run)]).stdout
    export = CliRunner().invoke(cli, ["export", str(run), "--out", str(tmp_path / "export")])
    assert export.exit_code == 0, export.output
    card = (tmp_path / "export" / "card.md").read_text()
    assert reason in card
    assert f"Measure {MEASURE} " in card


def test_the_last_lines_of_train_report_the_accuracy_of_the_label_classifier(
    tmp_path: Path, register_data: RegisterData
) -> None:
    register_data("test-digits", load_digits)
    words = ["train", "test-digits", "--run-dir", str(tmp_path / "run"), "--max-steps", "2"]
    done = CliRunner().invoke(cli, [*words, *(word for setting in SMALL for word in ("--set", setting))])
    assert done.exit_code == 0, done.output
    classifier = load_label_classifier(DataSettings(source="test-digits"), CPU)
    assert classifier is not None
    assert f"{classifier.skill.accuracy:.1%} of held-out images" in done.stdout
