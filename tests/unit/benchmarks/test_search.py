"""The recipe search runs each trial once with the real trainer and ranks trials by validation scores."""

import json
import re
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
name = "diverging"
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
    assert re.search(r"\bdiverging\b.*\b0\b.*TrainingError", done.stderr)
    (line,) = log.read_text().splitlines()
    record = json.loads(line)
    assert (record["name"], record["set"], record["seed"]) == ("small", ["model.base_channels=8"], 0)
    assert record["images"] == 640
    assert record["cpu_seconds"] > 0
    assert "| small (640 images) | 1 |" in done.stdout

    file.write_text(TRIALS.partition('[[trial]]\nname = "diverging')[0])
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
    splits = set()

    def record_split(data: DataSettings, split: Split) -> ImageSet:
        splits.add(split)
        return load_split(data, split)

    monkeypatch.setattr("ganctl.training.evaluation.evaluator.load_split", record_split)
    record = run_trial(
        Trial("own", "conv", None, ("model.base_channels=8",), seed=3, duration="640 images", num_images=100)
    )
    assert record["images"] == 640
    assert splits == {"val", "train"}, "the floor needs the training images"


def test_all_errors_of_the_file_are_reported_before_training(tmp_path: Path) -> None:
    path = tmp_path / "trials.toml"
    path.write_text('[[trial]]\nname = "a"\nset = ["optimiser.lr=1"]\n[[trial]]\nname = "b"\npreset = "none"\n')
    with pytest.raises(BenchUsageError) as caught:
        read_trials(path, seeds=2, duration="640 images", num_images=100)
    heading, *errors = str(caught.value).splitlines()
    assert f"{path}: " in heading
    assert len(errors) == 2
    assert re.search(r"\ba: --set: .*'optimiser\.lr'", errors[0])
    assert re.search(r"\bb: .*\bnone\b", errors[1])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[[trial]]\nname = "a"\nsets = []\n', r"\ba: .*\bsets\b"),
        ("name = 1".encode("utf-16"), "UTF-16.*UTF-8"),
        (b"name = 1\n", r"TOML.*\[\[trial\]\]"),
    ],
)
def test_an_invalid_trials_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "trials.toml"
    path.write_bytes(content)
    with pytest.raises(BenchUsageError, match=rf"{re.escape(str(path))}: .*{expected}"):
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
    assert rows[1].endswith("| 30.0 | – | – |"), "the worst seed, and no accuracy without labels"


def test_the_table_has_the_worst_seed_of_each_score() -> None:
    scores = dict.fromkeys(("precision", "recall", "coverage", "images_per_second", "cpu_seconds"), 1.0)
    records = [
        {"name": "a", "duration": None, "fd_ratio": ratio, "label_accuracy": accuracy, "worst_class": worst, **scores}
        for ratio, accuracy, worst in ((3.0, 0.99, 0.97), (1.0, 0.98, 0.96), (2.0, 1.0, 0.98))
    ]
    (row,) = table(records).splitlines()[2:]
    assert row.startswith("| a (its own length) | 3 | 2.00 | 0.990 |")
    assert row.endswith("| 3.00 | 0.980 | 0.960 |")


def test_the_committed_trials_can_be_run() -> None:
    recipe, lucic = (
        read_trials(TRIALS_FOLDER / name, seeds=1, duration="640 images", num_images=100)
        for name in ("recipe.toml", "lucic.toml")
    )
    assert {trial.settings().model.generator for trial in recipe} == {"conv"}
    settings = [json.dumps(trial.settings().flat(), sort_keys=True) for trial in recipe]
    assert len(set(settings)) == len(settings), "no two trials have the same settings"
    stability = read_trials(TRIALS_FOLDER / "stability.toml", seeds=1, duration=None, num_images=100)
    durations = {trial.preset: str(trial.settings().train.duration) for trial in stability}
    assert durations == {preset: str(resolve(preset=preset, environment={})[0].train.duration) for preset in durations}
    assert durations.keys() == {"quick", "conv"}
    for trial in lucic:
        config = trial.settings()
        assert config.model.generator == "ganctl.benchmarks.quality.lucic:Generator", "its config file is read"
        assert not config.optimizer.lr_by_fan_in, "the peers use no part of ganctl's recipe"
        assert not config.optimizer.grad_clip_ratio
        assert config.optimizer.lr == float(trial.set[0].removeprefix("optimizer.lr=")), "`set` overrides the file"
