"""Diagnostics: a run that collapses, overfits or copies says so once, with value and remedy; others are silent."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganctl.training.callbacks import Diagnostics
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config, DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from tests.conftest import launch
from tests.states import timeless_rows
from tests.unit.training.conftest import RegisterData
from tests.unit.training.steps import batch

FEW = 600


@dataclass
class DrawnImages:
    """A source that returns the same kind of images, whatever the latents are."""

    draw: Callable[[Tensor], Tensor]
    latent_dim: int = 8
    conditional: bool = True
    class_names: tuple[str, ...] = tuple("0123456789")

    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        return self.draw(label)


@dataclass
class FakeRun:
    config: Config
    run_dir: Path
    step: int = 0
    images: int = 0


@pytest.fixture
def few_images(register_data: RegisterData) -> None:
    """Registers `few`: 600 training images and 400 held-out images of MNIST."""

    def load(settings: object, split: Split) -> ImageSet:
        data = load_split(DataSettings(), split)
        n = FEW if split == "train" else 400
        return ImageSet(data.images[:n], data.labels[:n], data.class_names)

    register_data("few", load)


@pytest.fixture
def begin(tmp_path: Path, few_images: None) -> Callable[..., tuple[Diagnostics, Any]]:
    def start(*assignments: str, source: str = "few", state: dict[str, Any] | None = None) -> tuple[Diagnostics, Any]:
        config, _ = resolve(assignments=[f"data.source={source}", *assignments], environment={})
        run, diagnostics = FakeRun(config, tmp_path), Diagnostics()
        if state is not None:
            diagnostics.load_state_dict(state)
        diagnostics.on_start(run)  # type: ignore[arg-type]
        return diagnostics, run

    return start


def evaluate(diagnostics: Diagnostics, run: Any, draw: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    scores = dict(diagnostics.on_measure(run, DrawnImages(draw), "val"))
    diagnostics.on_evaluation(run, scores)
    return scores


def training_images(label: Tensor) -> Tensor:
    return load_split(DataSettings(), "train").images[: len(label)]


def new_images(label: Tensor) -> Tensor:
    return load_split(DataSettings(), "test").images[: len(label)]


def one_image_per_class(label: Tensor) -> Tensor:
    data = load_split(DataSettings(), "test")
    return torch.stack([data.images[(data.labels == one).nonzero()[0, 0]] for one in label.tolist()])


def test_new_images_give_no_warning(begin: Any, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics, run = begin()
    for _ in range(3):
        scores = evaluate(diagnostics, run, new_images)
    assert scores["diversity"] == pytest.approx(1, abs=0.1)
    assert scores["near_copies"] < 0.04
    assert caplog.messages == []


def test_images_that_are_alike_are_a_collapse_from_the_second_evaluation_on(
    begin: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    diagnostics, run = begin()
    for _ in range(3):
        evaluate(diagnostics, run, one_image_per_class)
    run.images = 50_000
    assert evaluate(diagnostics, run, one_image_per_class)["diversity"] == 0
    assert caplog.messages == [], "the first images of a training may be alike"
    run.step = 70
    evaluate(diagnostics, run, one_image_per_class)
    evaluate(diagnostics, run, one_image_per_class)
    (message,) = caplog.messages
    for part in ("step 70", "diversity is 0.00", "600 training images", "augment.probability=adaptive"):
        assert part in message
    assert message in (tmp_path / "log.txt").read_text()


def test_copies_of_training_images_are_reported(begin: Any, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics, run = begin("augment.probability=adaptive")
    scores = evaluate(diagnostics, run, training_images)
    assert scores["near_copies"] == 1
    assert scores["diversity"] == pytest.approx(1, abs=0.1), "copies may be diverse"
    (message,) = caplog.messages
    for part in ("100.0% of the generated images", "expected about 1%", "Add images", "train.duration"):
        assert part in message


def test_many_training_images_are_not_searched_for_copies(begin: Any) -> None:
    diagnostics, run = begin(source="mnist")
    assert evaluate(diagnostics, run, training_images)["near_copies"] is None


def log(diagnostics: Diagnostics, run: Any, times: int, **stats: float) -> None:
    for _ in range(times):
        run.step += run.config.log.every
        diagnostics.on_log(run, {"discriminator_accuracy": 0.7, **stats})


def test_a_discriminator_that_wins_for_a_thousand_steps_is_reported_once(
    begin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    diagnostics, run = begin("augment.probability=0.5", "log.every=100")
    log(diagnostics, run, 9, discriminator_accuracy=0.995)
    log(diagnostics, run, 1, discriminator_accuracy=0.9)
    log(diagnostics, run, 9, discriminator_accuracy=0.995)
    assert caplog.messages == []
    log(diagnostics, run, 1, discriminator_accuracy=0.995)
    (message,) = caplog.messages
    for part in ("step 2000", "99.5%", "loss.r1", "higher than 0.1", "optimizer.lr_discriminator"):
        assert part in message
    resumed, run = begin("augment.probability=0.5", state=diagnostics.state_dict())
    log(resumed, run, 30, discriminator_accuracy=0.995)
    assert len(caplog.messages) == 1, "also a resumed run does not repeat it"


def test_a_discriminator_may_win_if_the_generator_learns_from_an_energy_distance(
    begin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    diagnostics, run = begin("log.every=100")
    log(diagnostics, run, 30, discriminator_accuracy=0.995, energy_distance=1.2)
    assert caplog.messages == []


def test_a_collapse_in_spite_of_an_energy_distance_calls_for_a_higher_weight(
    begin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    diagnostics, run = begin("augment.probability=adaptive", "model.discriminator=projected")
    run.images = 50_000
    evaluate(diagnostics, run, one_image_per_class)
    evaluate(diagnostics, run, one_image_per_class)
    (message,) = caplog.messages
    assert "Set loss.energy_distance higher than 20 " in message


def test_augmentation_at_its_limit_is_reported(begin: Any, caplog: pytest.LogCaptureFixture) -> None:
    diagnostics, run = begin("augment.probability=adaptive", "log.every=100")
    log(diagnostics, run, 30, augment_probability=0.6, overfitting=0.5)
    assert caplog.messages == []
    log(diagnostics, run, 30, augment_probability=0.8, overfitting=0.47)
    (message,) = caplog.messages
    for part in ("0.8", "0.47", "Add images"):
        assert part in message


def test_a_short_run_records_both_scores_and_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        launch(tmp_path / "run").build(max_steps=20).fit()
    evaluations = [row["evaluation"] for row in timeless_rows(tmp_path / "run") if "evaluation" in row]
    assert all(scores["diversity"] > 0 and scores["near_copies"] is None for scores in evaluations)
    assert not [record for record in caplog.records if "diagnostics" in record.name]


def test_a_data_set_of_one_image_per_class_has_no_diversity_to_compare_with(
    begin: Any, register_data: RegisterData
) -> None:
    images, _ = batch(2)
    register_data(
        "twice", lambda settings, split: ImageSet(images[:1].repeat(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64), ())
    )
    diagnostics, run = begin(source="twice")
    assert evaluate(diagnostics, run, lambda label: images[:1].repeat(len(label), 1, 1, 1))["diversity"] is None
