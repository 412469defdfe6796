"""The recipe search runs each trial once with the real trainer and ranks trials by validation scores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import ganctl.benchmarks.quality.search
from ganctl.benchmarks.errors import BenchUsageError
from ganctl.benchmarks.quality.search import Trial, main, read_trials, run_trial, table
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import load_split
from tests.waiting import PATIENCE

TRIALS_FOLDER = Path(ganctl.benchmarks.quality.search.__file__).parents[1] / "trials"
TRIALS = """
preset = "conv"
[[trial]]
name = "small"
set = ["model.base_channels=8"]
[[trial]]
name = "no numbers"
set = ["optimizer.lr=1e30"]
"""


@pytest.mark.soak
def test_finished_trials_are_logged_and_not_repeated_and_failures_are_reported(tmp_path: Path) -> None:
    file, log = tmp_path / "trials.toml", tmp_path / "log.jsonl"
    file.write_text(TRIALS)
    words = [str(file), "--log", str(log), "--num-images", "200", "--images", "640"]
    command = [sys.executable, "-m", "ganctl.benchmarks.quality.search", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert "no numbers, seed 0: TrainingError" in done.stderr
    (line,) = log.read_text().splitlines()
    record = json.loads(line)
    assert (record["name"], record["set"], record["seed"]) == ("small", ["model.base_channels=8"], 0)
    assert record["images"] == 640
    assert record["cpu_seconds"] > 0
    assert "| small (640 images) | 1 |" in done.stdout

    file.write_text(TRIALS.partition('[[trial]]\nname = "no')[0])
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0, again.output
    assert again.stdout == done.stdout
    assert again.stderr == "", "nothing was trained"
    assert log.read_text().splitlines() == [line]


def test_a_trial_with_changed_settings_has_another_key(tmp_path: Path) -> None:
    path, config = tmp_path / "trials.toml", tmp_path / "own.toml"
    path.write_text('[[trial]]\nname = "a"\nconfig = "own.toml"\n')
    keys = []
    for width in (8, 8, 16):
        config.write_text(f"[model]\nbase_channels = {width}\n")
        (trial,) = read_trials(path, seeds=1, duration="640 images", num_images=100)
        keys.append(ganctl.benchmarks.quality.search.key(json.loads(json.dumps(trial.fingerprint()))))
    assert keys[0] == keys[1] != keys[2]


def test_a_trial_never_loads_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, load = set(), load_split

    def watched(data: DataSettings, split: Split) -> ImageSet:
        seen.add(split)
        return load(data, split)

    monkeypatch.setattr("ganctl.training.evaluation.evaluator.load_split", watched)
    record = run_trial(
        Trial("own", "conv", None, ("model.base_channels=8",), seed=3, duration="640 images", num_images=100)
    )
    assert record["images"] == 640
    assert seen == {"val", "train"}, "the training images give the floor"


def test_all_errors_of_the_file_are_reported_before_training(tmp_path: Path) -> None:
    path = tmp_path / "trials.toml"
    path.write_text('[[trial]]\nname = "a"\nset = ["optimiser.lr=1"]\n[[trial]]\nname = "b"\npreset = "none"\n')
    with pytest.raises(BenchUsageError) as told:
        read_trials(path, seeds=2, duration="640 images", num_images=100)
    assert str(told.value).count("\n  - ") == 2
    assert "a: --set: unknown setting 'optimiser.lr'" in str(told.value)
    path.write_text('[[trial]]\nname = "a"\nsets = []\n')
    with pytest.raises(BenchUsageError, match="trial a: found sets"):
        read_trials(path, seeds=1, duration="640 images", num_images=100)
    path.write_bytes("name = 1".encode("utf-16"))
    with pytest.raises(BenchUsageError, match="found UTF-16, expected UTF-8"):
        read_trials(path, seeds=1, duration="640 images", num_images=100)
    path.write_text("name = 1\n")
    with pytest.raises(BenchUsageError, match=r"expected TOML with tables \[\[trial\]\]"):
        read_trials(path, seeds=1, duration="640 images", num_images=100)


def test_seeds_are_interleaved_and_the_table_is_sorted_by_the_mean(tmp_path: Path) -> None:
    path = tmp_path / "trials.toml"
    path.write_text('[[trial]]\nname = "a"\n[[trial]]\nname = "b"\n')
    trials = read_trials(path, seeds=2, duration="640 images", num_images=100)
    assert [(trial.seed, trial.name) for trial in trials] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    scores = dict.fromkeys(("precision", "recall", "coverage", "images_per_second", "cpu_seconds"), 1.0)
    unknown = dict.fromkeys(("label_accuracy", "worst_class"))
    records = [
        {"name": name, "duration": "1s", "fd_ratio": distance, **scores, **unknown}
        for name, distance in (("a", 30.0), ("a", 10.0), ("b", 9.0), ("b", 11.0), ("c", 100.0))
    ]
    rows = table(records).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| b (1s)", "| a (1s)", "| c (1s)"]
    assert rows[1].startswith("| a (1s) | 2 | 20.0 | – |")
    assert rows[1].endswith("| 30.0 | – | – |"), "its worst seed; without labels there is no accuracy"


def test_the_table_has_the_worst_seed_of_each_score() -> None:
    scores = dict.fromkeys(("precision", "recall", "coverage", "images_per_second", "cpu_seconds"), 1.0)
    found = ((3.0, 0.99, 0.97), (1.0, 0.98, 0.96), (2.0, 1.0, 0.98))
    records = [
        {"name": "a", "duration": None, "fd_ratio": a, "label_accuracy": b, "worst_class": c, **scores}
        for a, b, c in found
    ]
    (row,) = table(records).splitlines()[2:]
    assert row.startswith("| a (its own length) | 3 | 2.00 | 0.990 |")
    assert row.endswith("| 3.00 | 0.980 | 0.960 |")


def test_the_committed_trials_can_be_run() -> None:
    own, theirs = (
        read_trials(TRIALS_FOLDER / name, seeds=1, duration="640 images", num_images=100)
        for name in ("recipe.toml", "lucic.toml")
    )
    assert {trial.settings().model.generator for trial in own} == {"conv"}
    changed = [json.dumps(trial.settings().flat(), sort_keys=True) for trial in own]
    assert len(set(changed)) == len(changed), "each varies something"
    stability = read_trials(TRIALS_FOLDER / "stability.toml", seeds=1, duration=None, num_images=100)
    lengths = {trial.preset: str(trial.settings().train.duration) for trial in stability}
    assert lengths == {preset: str(resolve(preset=preset, environment={})[0].train.duration) for preset in lengths}
    assert lengths.keys() == {"quick", "conv"}
    for trial in theirs:
        config = trial.settings()
        assert config.model.generator == "ganctl.benchmarks.quality.lucic:Generator", "its config file is read"
        assert not config.optimizer.lr_by_fan_in, "the peers have nothing of our recipe"
        assert not config.optimizer.grad_clip_ratio
        assert config.optimizer.lr == float(trial.set[0].removeprefix("optimizer.lr=")), "and `set` comes after it"
