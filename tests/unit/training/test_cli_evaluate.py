"""`ganctl evaluate`: its scores, its JSON object and its errors."""

import hashlib
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
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.evaluation.metrics import Gaussian, frechet_distance
from ganctl.training.evaluation.network import classify
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.evaluation.scorer import load_scorer
from ganctl.training.evaluation.validity import SMALL_SET
from tests.unit.training.conftest import RegisterData
from tests.unit.training.test_feature_files import Scripted, scripted

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
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes further arrays for `allow_pickle`
    return path


def test_the_json_object_has_all_scores_and_the_networks_behind_them(small_run: Path) -> None:
    record = scores(small_run, "--num-images", 300)
    names = {"fd", "fd_floor", "fd_ratio", "kid", "kid_se", "precision", "recall", "density", "coverage"}
    names |= {"label_accuracy", "class_accuracy", "class_balance", "class_balance_real"}
    names |= {"inception_score", "inception_score_real", "memorisation"}
    assert {name for name in names if record.get(name) is not None} == names
    assert (record["num_images"], record["draws"], record["features"]) == (300, 1, "imagenet")
    assert record["measure"] == MEASURE
    assert record["memorisation"].keys() == {"ratio", "share_closer", "flagged", "num_images"}
    scorer = load_scorer(DataSettings())
    assert scorer.skill is not None
    assert (record["scorer"], record["scorer_accuracy"]) == (scorer.digest, scorer.skill.accuracy)
    assert 0.9 < record["scorer_accuracy"] < 1
    assert record["scorer_weak"] is False
    assert "std" not in record
    again = scores(small_run, "--num-images", 300)  # with the cached results of the first call
    assert {**again, "seconds": 0} == {**record, "seconds": 0}


def test_the_help_states_where_the_features_come_from_and_which_distance_to_read_for_few_images() -> None:
    text = " ".join(evaluate("--help").stdout.split())
    assert re.search(r"\bfeatures of a network\b[^.]*\btrained on other images\b", text)
    assert re.search(rf"\bkid is the one to read for fewer than {SMALL_SET:,} images", text)


def test_the_table_has_kid_with_its_error_the_classifiers_accuracy_and_the_measure(small_run: Path) -> None:
    text = evaluate(small_run, "--num-images", 100).stdout
    assert re.search(r"^kid +\d+\.\d{4} +standard error: \d+\.\d{4}$", text, re.MULTILINE), text
    assert re.search(rf"^measure +{MEASURE}$", text, re.MULTILINE), text
    skill = load_scorer(DataSettings()).skill
    assert skill is not None
    assert f"{skill.accuracy:.1%} of held-out images" in text


def test_measure_1_gives_the_scores_of_earlier_versions(tmp_path: Path) -> None:
    record = scores(save_real_images(tmp_path / "real.npz", "val", 200), "--measure", 1)
    classifier = load_classifier(DataSettings())
    generated = load_split(DataSettings(), "val").images[:200]
    real = subsample(load_split(DataSettings(), "test").images, 200)
    expected = [Gaussian.fit(classify(classifier, images).features) for images in (generated, real)]
    assert record["fd"] == pytest.approx(frechet_distance(*expected), rel=1e-6)
    assert (record["measure"], record["features"], record["scorer_accuracy"]) == (1, "classifier", 0.9959)
    assert record["scorer"] != scores(tmp_path / "real.npz")["scorer"]


def test_the_classifier_of_measure_1_reads_as_many_test_digits_as_its_metadata_state() -> None:
    scorer, test = load_scorer(DataSettings(), measure=1), load_split(DataSettings(), "test")
    accuracy = (scorer(test.images).predictions == test.labels).float().mean().item()
    assert scorer.skill is not None
    assert accuracy == pytest.approx(scorer.skill.accuracy, abs=2e-4)  # another rounding may turn two images
    assert scorer.skill.accuracy == 0.9959


def test_unknown_measures_and_features_with_measure_1_are_usage_errors(small_run: Path) -> None:
    for words, reason in (
        (("--measure", 3), r"--measure"),
        (("--measure", 1, "--features", "f.pt"), r"--measure 1: .*--features"),
    ):
        done = evaluate(small_run, *words)
        assert done.exit_code == 2
        assert re.search(reason, done.stderr), done.stderr


def test_several_draws_give_means_and_standard_deviations(small_run: Path) -> None:
    one, three = (scores(small_run, "--num-images", 200, "--draws", draws) for draws in (1, 3))
    assert three["draws"] == 3
    assert 0 < three["std"]["fd"] < three["fd"] / 2
    assert three["fd"] != one["fd"]
    assert abs(three["fd"] - one["fd"]) < 6 * three["std"]["fd"]
    assert three["std"].keys() >= {"fd", "kid", "precision", "label_accuracy", "inception_score", "memorisation"}
    assert (three["measure"], three["scorer_accuracy"]) == (one["measure"], one["scorer_accuracy"])
    assert "±" in evaluate(small_run, "--num-images", 200, "--draws", 2).stdout


def test_copies_of_training_images_are_reported_and_validation_images_are_not(tmp_path: Path) -> None:
    copies = evaluate(save_real_images(tmp_path / "copies.npz", "train", 500))
    assert "memorization" in copies.stdout
    new = evaluate(save_real_images(tmp_path / "new.npz", "val", 500))
    assert new.exit_code == 0
    assert "memorization" not in new.stdout


@pytest.mark.soak
def test_a_network_file_provides_the_features_and_the_label_scores_stay(small_run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = scripted(Scripted(), tmp_path / "inception.pt")
    record = scores(small_run, "--num-images", 100, "--features", file)
    assert record["features"] == "file"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in record["scorer"]
    plain = scores(small_run, "--num-images", 100)
    assert record["fd"] != plain["fd"]
    assert record["kid"] != plain["kid"]
    assert record["label_accuracy"] == plain["label_accuracy"]
    text = evaluate(small_run, "--num-images", 100, "--features", file).stdout
    assert "features of the given network" in text


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


def test_an_absent_file_of_features_is_an_error_that_names_it(small_run: Path) -> None:
    absent = evaluate(small_run, "--features", "absent.pt")
    assert absent.exit_code == 4
    assert re.search(r"--features.*\babsent\.pt: No such file", absent.stderr), absent.stderr


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


@pytest.mark.soak
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
