"""`ganctl evaluate` on transparent images, and on images without labels."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split, premultiply
from ganctl.training.evaluation.scorer import load_scorer
from ganctl.training.evaluation.validity import NO_CLASSES
from tests.any_images import COLORS, disks, save_folder, untrained_run
from tests.unit.training.conftest import RegisterData

SIZE, N = 16, 240
SEEDS = {"train": 1, "val": 2, "test": 3}
CLASSES = tuple(f"color {i}" for i in range(len(COLORS)))


@pytest.fixture(autouse=True)
def data_sets(register_data: RegisterData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the data sets `disks`, of three classes, and `unlabeled`, of the same images."""

    def load(settings: DataSettings, split: Split) -> ImageSet:
        images = premultiply(torch.from_numpy(disks(N, SIZE, seed=SEEDS[split])).permute(0, 3, 1, 2))
        if settings.source == "unlabeled":
            return ImageSet(images, torch.zeros(N, dtype=torch.int64), ())
        return ImageSet(images, torch.arange(N) % len(CLASSES), CLASSES)

    register_data("disks", load)
    register_data("unlabeled", load)
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 60)


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, words)])


def scores(*words: object) -> dict[str, Any]:
    done = evaluate(*words, "--num-images", N, "--json")
    assert done.exit_code == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def save_samples(path: Path, seed: int, *, labels: bool = True, size: int = SIZE) -> Path:
    """Writes disks as `sample --out FILE.npz` writes generated images: their colors are not multiplied with alpha."""
    arrays: dict[str, Any] = {"images": disks(N, size, seed=seed).transpose(0, 3, 1, 2)}
    if labels:
        arrays["labels"] = np.arange(N) % len(CLASSES)
    np.savez(path, **arrays)
    return path


def test_transparent_samples_of_a_file_are_scored_as_the_images_that_they_are(tmp_path: Path) -> None:
    new = scores(save_samples(tmp_path / "new.npz", seed=9), "--set", "data.source=disks")
    assert new["label_accuracy"] > 0.9
    assert new["fd_ratio"] < 3
    assert not new["memorisation"]["flagged"]
    copies = scores(save_samples(tmp_path / "copies.npz", seed=SEEDS["train"]), "--set", "data.source=disks")
    assert copies["memorisation"]["ratio"] == 0, "equal to the training images, pixel by pixel"
    assert copies["memorisation"]["flagged"]


def test_hidden_colors_of_transparent_pixels_change_no_score(tmp_path: Path) -> None:
    path = save_samples(tmp_path / "plain.npz", seed=9)
    with np.load(path) as arrays:
        images, labels = arrays["images"].copy(), arrays["labels"]
    images[:, :3][np.broadcast_to(images[:, 3:] == 0, (N, 3, SIZE, SIZE))] = 255
    np.savez(tmp_path / "white.npz", images=images, labels=labels)
    plain, white = (scores(file, "--set", "data.source=disks") for file in (path, tmp_path / "white.npz"))
    varying = {"source": "", "seconds": 0}
    assert white | varying == plain | varying


def test_a_run_on_transparent_images_is_scored(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", Path("disks"))
    record = scores(run)
    assert record["class_accuracy"].keys() == set(CLASSES)
    assert record["fd"] > 3 * record["fd_floor"]
    assert record["kid"] > 3 * record["kid_se"]
    assert record["memorisation"]["ratio"] > 1


def test_features_of_transparent_images_are_those_on_white() -> None:
    scorer, straight = load_scorer(DataSettings(source="unlabeled")), torch.from_numpy(disks(20, SIZE))
    straight = straight.permute(0, 3, 1, 2)
    on_white = [
        Image.alpha_composite(Image.new("RGBA", image.size, "white"), image) for image in map(to_pillow, straight)
    ]
    expected = torch.from_numpy(np.stack([np.asarray(image)[..., :3] for image in on_white])).permute(0, 3, 1, 2)
    difference = (scorer(premultiply(straight)).features - scorer(expected).features).abs().max()
    assert difference < 0.1
    on_black = premultiply(straight)[:, :3]
    assert (scorer(on_black).features - scorer(expected).features).abs().max() > 10 * difference


def to_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def test_without_labels_there_are_feature_scores_and_the_reason_why_there_are_no_label_scores(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", Path("unlabeled"))
    record = scores(run)
    assert record["label_accuracy"] is record["class_accuracy"] is record["class_balance"] is None
    assert record["scorer_accuracy"] is record["no_summary"] is None
    assert record["scorer_fault"] == NO_CLASSES
    assert record["fd"] > 3 * record["fd_floor"]
    assert record["kid"] > 3 * record["kid_se"]
    assert record["memorisation"]["ratio"] > 1
    assert f"no label scores: {NO_CLASSES}" in evaluate(run, "--num-images", N).stdout


def test_labels_change_no_feature_score(tmp_path: Path) -> None:
    names = ("fd", "fd_floor", "kid", "kid_se", "precision", "recall", "density", "coverage", "memorisation")
    records = []
    for labels, source in ((True, "disks"), (True, "unlabeled"), (False, "unlabeled")):
        file = save_samples(tmp_path / "new.npz", seed=9, labels=labels)
        record = scores(file, "--set", f"data.source={source}")
        records.append({name: record[name] for name in names})
    assert records[0] == records[1] == records[2]


def test_memorization_is_measured_without_labels(tmp_path: Path) -> None:
    for labels in (True, False):
        file = save_samples(tmp_path / "copies.npz", seed=SEEDS["train"], labels=labels)
        assert scores(file, "--set", "data.source=unlabeled")["memorisation"]["ratio"] == 0


def test_cas_of_images_without_labels_is_refused_with_the_reason(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", Path("unlabeled"))
    done = evaluate(run, "--cas")
    assert done.exit_code == 2
    assert re.search(r"--cas: .*\blabels\b", done.stderr), done.stderr
    done = evaluate(save_samples(tmp_path / "a.npz", seed=9), "--cas", "--set", "data.source=unlabeled")
    assert done.exit_code == 4
    assert re.search(r"--cas: .*\bno labels\b", done.stderr), done.stderr


@pytest.mark.parametrize("source", ["disks", "unlabeled"])
def test_samples_of_another_size_or_without_alpha_are_refused_with_both_shapes(source: str, tmp_path: Path) -> None:
    done = evaluate(save_samples(tmp_path / "large.npz", seed=9, size=20), "--set", f"data.source={source}")
    assert done.exit_code == 4
    assert re.search(r"large\.npz: .*4 × 20 × 20.*4 × 16 × 16.*\bdata\.size\b", done.stderr), done.stderr
    np.savez(tmp_path / "rgb.npz", images=disks(N, SIZE)[..., :3])
    done = evaluate(tmp_path / "rgb.npz", "--set", f"data.source={source}")
    assert done.exit_code == 4
    assert re.search(r"rgb\.npz: .*3 × 16 × 16.*4 × 16 × 16", done.stderr), done.stderr


def test_a_labeled_generator_does_not_fit_unlabeled_data(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", Path("disks"))
    done = evaluate(run, "--set", "data.source=unlabeled")
    assert done.exit_code == 4
    assert re.search(r"\bcolor 0, color 1, color 2\b.*\bnone\b", done.stderr), done.stderr
    folder = save_folder(tmp_path / "other", disks(30, SIZE))
    done = evaluate(run, "--set", f"data.source={folder}")
    assert done.exit_code == 4, "a flat folder has no labels either"
