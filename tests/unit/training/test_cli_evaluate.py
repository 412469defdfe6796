"""`ganctl evaluate`: its scores, its JSON object and its errors."""

import json
import re
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
    """Runs the command in this process: another one would first have to import torch."""
    return CliRunner().invoke(cli, ["evaluate", *map(str, words)])


def scores(*words: object) -> dict[str, Any]:
    done = evaluate(*words, "--json")
    assert done.exit_code == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def save_real_images(path: Path, split: Split, n: int, *, labels: bool = True) -> Path:
    """Writes real images as `sample --out FILE.npz` writes generated ones; returns the path."""
    real = load_split(DataSettings(), split)
    arrays = {"images": real.images[:n, 0].numpy()} | ({"labels": real.labels[:n].numpy()} if labels else {})
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_the_json_object_has_all_scores_and_the_networks_behind_them(small_run: Path) -> None:
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
    again = scores(small_run, "--num-images", 300)  # with the cached results of the first call
    assert {**again, "seconds": 0} == {**record, "seconds": 0}


def test_the_help_states_the_layer_and_the_accuracy_of_the_classifier() -> None:
    text = " ".join(evaluate("--help").stdout.split())
    assert f"{float(load_classifier(DataSettings()).metadata['test_accuracy']):.2%}".replace("%", " %") in text
    assert re.search(r"\b128\b.*\bReLU\b.*\bhidden layer\b", text)


def test_several_draws_give_means_and_standard_deviations(small_run: Path) -> None:
    one, three = (scores(small_run, "--num-images", 200, "--draws", draws) for draws in (1, 3))
    assert three["draws"] == 3
    assert 0 < three["std"]["fd"] < three["fd"] / 2
    assert three["fd"] != one["fd"]
    assert abs(three["fd"] - one["fd"]) < 6 * three["std"]["fd"]
    assert three["std"].keys() >= {"fd", "precision", "label_accuracy", "inception_score", "memorisation"}
    assert "±" in evaluate(small_run, "--num-images", 200, "--draws", 2).stdout


def test_copies_of_training_images_are_reported_and_validation_images_are_not(tmp_path: Path) -> None:
    copies = evaluate(save_real_images(tmp_path / "copies.npz", "train", 500))
    assert "memorization" in copies.stdout
    new = evaluate(save_real_images(tmp_path / "new.npz", "val", 500))
    assert new.exit_code == 0
    assert "memorization" not in new.stdout


def test_an_inception_file_provides_the_features(small_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = scripted(Scripted(), tmp_path / "inception.pt")
    record = scores(small_run, "--num-images", 100, "--features", f"inception={file}")
    assert record["features"] == "inception"
    assert len(record["inception_sha256"]) == 64
    plain = scores(small_run, "--num-images", 100)
    assert record["fd"] != plain["fd"]
    assert record["label_accuracy"] == plain["label_accuracy"]


@pytest.mark.parametrize(("kind", "reason"), [("foreign", r"meta\.json"), ("damaged", "decompressing")])
def test_a_foreign_and_a_damaged_file_of_arrays_are_named_in_the_error(kind: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    if kind == "foreign":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("meta.json", "{}")
    else:
        np.savez_compressed(path, images=np.zeros((300, 28, 28), np.uint8))
        content = bytearray(path.read_bytes())
        content[60] = 0b111  # the first byte of the compressed data: a block type that does not exist
        path.write_bytes(content)
    result = CliRunner().invoke(cli, ["evaluate", str(path)])
    assert result.exit_code == 4, result.output
    assert re.search(rf"{re.escape(str(path))}: .*{reason}", result.output), result.output
    result = CliRunner().invoke(cli, ["train", "--dry-run", str(path)])
    assert result.exit_code == 4, result.output
    assert re.search(rf"{re.escape(str(path))}: .*{reason}", result.output), result.output


def test_absent_and_unknown_features_are_errors(small_run: Path) -> None:
    absent = evaluate(small_run, "--features", "inception=absent.pt")
    assert absent.exit_code == 4
    assert "--features inception=FILE: absent.pt: No such file" in absent.stderr
    unknown = evaluate(small_run, "--features", "vgg")
    assert unknown.exit_code == 2
    assert re.search(r"--features.*'vgg'.*'classifier'.*'inception=FILE'", unknown.stderr), unknown.stderr


def test_cas_without_labels_and_draws_without_latents_are_refused(
    small_unconditional_run: Path, tmp_path: Path
) -> None:
    unlabeled = save_real_images(tmp_path / "unlabeled.npz", "val", 100, labels=False)
    for source in (small_unconditional_run, unlabeled):
        done = evaluate(source, "--cas")
        assert done.exit_code == 2
        assert re.search(rf"--cas: {re.escape(str(source))}\b.*\blabels\b", done.stderr), done.stderr
    done = evaluate(unlabeled, "--draws", 2)
    assert done.exit_code == 2
    assert "--draws 2" in done.stderr


def test_an_unconditional_generator_has_a_class_balance(small_unconditional_run: Path) -> None:
    record = scores(small_unconditional_run, "--num-images", 200)
    assert 0 <= record["class_balance"] <= 1
    assert record["label_accuracy"] is None


def test_cas_trains_a_classifier_on_the_images_of_a_run_or_a_file(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register_data: RegisterData
) -> None:
    monkeypatch.setattr("ganctl.training.evaluation.train_classifier.MIN_STEPS", 30)

    def load(settings: DataSettings, split: Split) -> ImageSet:
        whole = load_split(DataSettings(), split)
        return ImageSet(whole.images[:600], whole.labels[:600], whole.class_names)

    register_data("small", load)
    words = ("--cas", "--set", "data.source=small", "--num-images", 100)
    file = save_real_images(tmp_path / "real.npz", "val", 600)
    record = scores(file, *words)
    assert record["cas_n"] == record["cas_n_real"] == 600
    assert record["cas_gap"] == record["cas_real"] - record["cas"]
    assert abs(record["cas_gap"]) < 0.15
    done = evaluate(small_run, *words, "--cas-images", 200)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"\b200 training images\b", done.stderr), done.stderr
    assert "cas " in done.stdout
