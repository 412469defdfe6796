"""`ganctl evaluate`, as a person or a program calls it: what it says, and how it fails."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ganctl.main import cli
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.classifier import load_classifier
from tests.unit.training.conftest import RegisterData
from tests.unit.training.test_inception import Scripted, scripted

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")


def evaluate(*words: object) -> Result:
    """In this process: importing torch anew for each would be most of the time."""
    return CliRunner().invoke(cli, ["evaluate", *map(str, words)])


def scores(*words: object) -> dict[str, Any]:
    done = evaluate(*words, "--json")
    assert done.exit_code == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def written(path: Path, split: Split, n: int, *, labels: bool = True) -> Path:
    """Real images as the .npz of `sample`."""
    real = load_split(DataSettings(), split)
    images, numbers = real.images[:n, 0].numpy(), real.labels[:n].numpy()
    if labels:
        np.savez(path, images=images, labels=numbers)
    else:
        np.savez(path, images=images)
    return path


def test_the_reply_says_all_scores_and_what_they_are_made_of(small_run: Path) -> None:
    record = scores(small_run, "--num-images", 300)
    names = {"fd", "fd_floor", "precision", "recall", "density", "coverage", "label_accuracy", "class_accuracy"}
    names |= {"class_balance", "class_balance_real", "inception_score", "inception_score_real", "memorisation"}
    assert names <= record.keys()
    assert (record["num_images"], record["draws"], record["features"]) == (300, 1, "classifier")
    assert record["memorisation"].keys() == {"ratio", "share_closer", "flagged", "num_images"}
    classifier = record["classifier"]
    assert classifier["accuracy"] == float(load_classifier(DataSettings()).metadata["test_accuracy"]) == 0.9959
    assert (classifier["features"], len(classifier["sha256"])) == (128, 64)
    assert "std" not in record
    again = scores(small_run, "--num-images", 300)  # with what the first call has kept
    assert {**again, "seconds": 0} == {**record, "seconds": 0}


def test_the_help_says_which_layer_and_how_accurate() -> None:
    told = " ".join(evaluate("--help").stdout.split())
    assert f"{float(load_classifier(DataSettings()).metadata['test_accuracy']):.2%}".replace("%", " %") in told
    assert "after the ReLU of its hidden layer" in told


def test_several_seeds_give_means_and_deviations(small_run: Path) -> None:
    one, three = (scores(small_run, "--num-images", 200, "--draws", seeds) for seeds in (1, 3))
    assert three["draws"] == 3
    assert 0 < three["std"]["fd"] < three["fd"] / 2
    assert three["fd"] != one["fd"]
    assert abs(three["fd"] - one["fd"]) < 6 * three["std"]["fd"]
    assert three["std"].keys() >= {"fd", "precision", "label_accuracy", "inception_score", "memorisation"}
    assert "±" in evaluate(small_run, "--num-images", 200, "--draws", 2).stdout


def test_copies_of_training_images_are_called_suspect_and_test_images_are_not(tmp_path: Path) -> None:
    copies = evaluate(written(tmp_path / "copies.npz", "train", 500))
    assert "suggest memorization" in copies.stdout
    new = evaluate(written(tmp_path / "new.npz", "val", 500))
    assert new.exit_code == 0
    assert "suggest memorization" not in new.stdout


def test_an_inception_file_gives_the_features(small_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = scripted(Scripted(), tmp_path / "inception.pt")
    record = scores(small_run, "--num-images", 100, "--features", f"inception={file}")
    assert record["features"] == "inception"
    assert len(record["inception_sha256"]) == 64
    plain = scores(small_run, "--num-images", 100)
    assert record["fd"] != plain["fd"]
    assert record["label_accuracy"] == plain["label_accuracy"]


@pytest.mark.parametrize(("kind", "told"), [("foreign", "which is not an array"), ("damaged", "decompressing")])
def test_a_foreign_and_a_damaged_file_of_arrays_are_told(kind: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    if kind == "foreign":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("meta.json", "{}")
    else:
        np.savez_compressed(path, images=np.zeros((300, 28, 28), np.uint8))
        content = bytearray(path.read_bytes())
        content[60] = 0b111  # the first byte of the packed stream: a kind of block that there is not
        path.write_bytes(content)
    result = CliRunner().invoke(cli, ["evaluate", str(path)])
    assert result.exit_code == 4, result.output
    assert told in result.output
    result = CliRunner().invoke(cli, ["train", "--dry-run", "--set", "data.name=folder", "--set", f"data.root={path}"])
    assert result.exit_code == 4, result.output


def test_features_that_cannot_be_had_are_told(small_run: Path) -> None:
    absent = evaluate(small_run, "--features", "inception=absent.pt")
    assert absent.exit_code == 4
    assert "--features inception=FILE: absent.pt: No such file" in absent.stderr
    unknown = evaluate(small_run, "--features", "vgg")
    assert unknown.exit_code == 2
    assert "expected 'classifier' or 'inception=FILE'" in unknown.stderr


def test_what_needs_labels_or_latents_is_refused_without(small_unconditional_run: Path, tmp_path: Path) -> None:
    unlabelled = written(tmp_path / "unlabelled.npz", "val", 100, labels=False)
    for source in (small_unconditional_run, unlabelled):
        done = evaluate(source, "--cas")
        assert done.exit_code == 2
        assert "has no labels to train a classifier on" in done.stderr
    done = evaluate(unlabelled, "--draws", 2)
    assert done.exit_code == 2
    assert "--draws 2" in done.stderr


def test_an_unconditional_generator_has_a_class_balance(small_unconditional_run: Path) -> None:
    record = scores(small_unconditional_run, "--num-images", 200)
    assert 0 <= record["class_balance"] <= 1
    assert record["label_accuracy"] is None


def test_a_classifier_is_trained_on_the_images_of_a_run_or_a_file(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register_data: RegisterData
) -> None:
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 30)

    def few(settings: DataSettings, split: Split) -> ImageSet:
        whole = load_split(DataSettings(), split)
        return ImageSet(whole.images[:600], whole.labels[:600], whole.class_names)

    register_data("few", few)
    words = ("--cas", "--set", "data.name=few", "--num-images", 100)
    file = written(tmp_path / "real.npz", "val", 600)
    record = scores(file, *words)
    assert record["cas_n"] == record["cas_n_real"] == 600
    assert record["cas_gap"] == record["cas_real"] - record["cas"]
    assert abs(record["cas_gap"]) < 0.15
    done = evaluate(small_run, *words, "--cas-images", 200)
    assert done.exit_code == 0, done.stderr
    assert "drawing 200 training images" in done.stderr
    assert "cas " in done.stdout
