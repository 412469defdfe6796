"""A run's folder holds what its settings say: numbered folders, last, best, the top k."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ganctl.training.callbacks import Checkpoint
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.checkpoint.run_dir import find_checkpoint, newest_checkpoint, next_run_dir
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import CheckpointSettings, Duration
from ganctl.training.errors import CheckpointError, ConfigError


class Somewhere:
    """As much of a run as the callback Checkpoint asks for at its start."""

    epoch_images = 1000

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir


def keeper(run_dir: Path, **settings: Any) -> Checkpoint:
    checkpoint = Checkpoint(CheckpointSettings.model_validate(settings))
    checkpoint.on_start(Somewhere(run_dir))  # type: ignore[arg-type]
    return checkpoint


def state(step: int) -> dict[str, Any]:
    return {"progress": {"step": step}, "metrics": {}}


def save(checkpoint: Checkpoint, step: int, score: float | None) -> None:
    scores = {} if score is None else {checkpoint.required_scores[0]: score}
    best = checkpoint.register(step, 10 * step, scores, fresh=score is not None)
    checkpoint.write(state(step), best=best)


def steps(run_dir: Path) -> dict[str, int]:
    return {path.stem: read_checkpoint(path).step for path in (run_dir / "checkpoints").iterdir()}


def test_run_folders_are_numbered_on_and_may_be_named(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[f"log.root={tmp_path}"], environment={})
    (tmp_path / "00011-other").mkdir()
    folder = next_run_dir(config)
    assert folder.name == "00012-conv-mnist"
    folder.mkdir()
    assert next_run_dir(config).name == "00013-conv-mnist"
    named, _ = resolve(assignments=[f"log.root={tmp_path}", "log.name=warm-up"], environment={})
    assert next_run_dir(named).name == "00013-warm-up"


def test_last_best_and_the_top_k_stay_and_nothing_else(tmp_path: Path) -> None:
    store = keeper(tmp_path, save_top_k=2)
    for step, score in enumerate([5.0, 3.0, 4.0, 9.0, 8.0, 7.0], start=1):
        save(store, step, score)
    assert steps(tmp_path) == {
        "last": 6, "best": 2, "step-00000002": 2, "step-00000003": 3, "step-00000005": 5, "step-00000006": 6,
    }  # fmt: skip


def test_more_may_be_better(tmp_path: Path) -> None:
    store = keeper(tmp_path, mode="max", monitor="label_accuracy")
    for step, score in enumerate([0.5, 0.9, 0.7], start=1):
        save(store, step, score)
    assert steps(tmp_path)["best"] == 2


def test_of_those_that_are_good_enough_the_latest_is_best(tmp_path: Path) -> None:
    store = keeper(tmp_path, monitor="fd_ratio", monitor_threshold=1.25, save_top_k=2)
    best = []
    for step, score in enumerate([3.0, 1.0, 1.25, 1.3, 1.2, 1.26], start=1):
        save(store, step, score)
        best.append(steps(tmp_path)["best"])
    assert best == [1, 2, 3, 3, 5, 5]
    assert steps(tmp_path) == {
        "last": 6, "best": 5, "step-00000003": 3, "step-00000005": 5, "step-00000006": 6,
    }  # fmt: skip
    assert store.beats({"fd_ratio": 1.25})
    assert not store.beats({"fd_ratio": 1.26})


def test_good_enough_may_be_a_high_score(tmp_path: Path) -> None:
    store = keeper(tmp_path, monitor="label_accuracy", monitor_threshold=0.99)
    for step, score in enumerate([0.995, 0.98, 0.991, 0.9], start=1):
        save(store, step, score)
    assert steps(tmp_path)["best"] == 3


def test_a_checkpoint_without_a_score_is_last_but_never_best(tmp_path: Path) -> None:
    store = keeper(tmp_path)
    save(store, 1, None)
    assert "best" not in steps(tmp_path)
    with pytest.raises(CheckpointError, match="no best checkpoint yet") as raised:
        find_checkpoint(tmp_path)
    assert raised.value.exit_code == 4


def test_the_newest_sound_checkpoint_is_found_and_damaged_ones_are_told(tmp_path: Path) -> None:
    store = keeper(tmp_path)
    save(store, 1, 2.0)
    save(store, 2, 3.0)
    for name in ("last", "step-00000002"):
        (tmp_path / "checkpoints" / f"{name}.safetensors").write_bytes(b"cut")
    told: list[str] = []
    found = newest_checkpoint(tmp_path, told.append)
    assert found is not None
    assert found.step == 1
    assert len(told) == 2


def test_a_folder_with_nothing_but_damaged_checkpoints_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, print) is None
    save(keeper(tmp_path), 1, None)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        newest_checkpoint(tmp_path, lambda text: None)


def test_best_of_a_stop_off_the_schedule_is_forgotten_when_the_run_goes_on(tmp_path: Path) -> None:
    store = keeper(tmp_path)
    save(store, 1, 5.0)
    kept = store.state_dict()
    store.write(state(2), best=True, listed=False)  # a limit stopped the run here, and the look at it was good
    assert steps(tmp_path)["best"] == 2
    resumed = Checkpoint()
    resumed.load_state_dict(kept)
    resumed.on_start(Somewhere(tmp_path))  # type: ignore[arg-type]
    assert steps(tmp_path)["best"] == 1


def test_names_of_checkpoints_may_hold_scores(tmp_path: Path) -> None:
    store = keeper(tmp_path, filename="{step:04d}-fd={fd:.1f}", save_top_k=1)
    for step, score in enumerate([None, 7.25, 9.0, 8.0], start=1):
        save(store, step, score)
    assert steps(tmp_path) == {"last": 4, "best": 2, "0002-fd=7.2": 2, "0003-fd=9.0": 3, "0004-fd=8.0": 4}
    (tmp_path / "checkpoints/mine.safetensors").write_bytes(b"a copy that somebody made")
    save(store, 5, 6.0)
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {
        "last", "best", "0004-fd=8.0", "0005-fd=6.0", "mine",
    }  # fmt: skip


def test_a_file_system_without_hard_links_holds_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = keeper(tmp_path, save_top_k=1)
    for step, score in enumerate([3.0, 5.0, 2.0], start=1):
        save(store, step, score)
    assert steps(tmp_path) == {"last": 3, "best": 3, "step-00000002": 2, "step-00000003": 3}


def test_a_complete_run_may_keep_its_best_alone(tmp_path: Path) -> None:
    store = keeper(tmp_path, save_top_k=1, save_last=False)
    for step, score in enumerate([3.0, 5.0, 6.0], start=1):
        save(store, step, score)
    store.on_end(None, "max-steps", {})  # type: ignore[arg-type]
    assert "last" in steps(tmp_path), "a run that was stopped will want to go on"
    store.on_end(None, "completed", {})  # type: ignore[arg-type]  # it does not read the run
    assert steps(tmp_path) == {"best": 1, "step-00000001": 1}


@pytest.mark.parametrize(
    ("filename", "message"),
    [("model", "expected {step}"), ("last-{step}", "does not begin with last"), ("a/{step}", "without '/'"),
     ("{step", "not a template"), ("{step}{x.y}", "plain names")],
)  # fmt: skip
def test_a_name_that_cannot_work_is_refused(filename: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(assignments=[f"checkpoint.filename='{filename}'"], environment={})


@pytest.mark.parametrize(("made", "message"), [(False, "no such run"), (True, "expected a run or a checkpoint")])
def test_what_is_no_run_is_told(made: bool, message: str, tmp_path: Path) -> None:
    source = tmp_path / "x"
    if made:
        source.mkdir()
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(source)


def test_what_a_killed_process_left_goes_and_what_somebody_put_there_stays(tmp_path: Path) -> None:
    store = keeper(tmp_path, filename="{step}")
    save(store, 1, 5.0)
    folder = tmp_path / "checkpoints"
    for name in (".ganctl-4711-0a1b2c3d.safetensors", ".ganctl-4711-4e5f6071", "2.safetensors", "mine.safetensors"):
        (folder / name).write_bytes(b"x")
    resumed = Checkpoint(CheckpointSettings(filename="{step}"))
    resumed.load_state_dict(store.state_dict())
    resumed.on_start(Somewhere(tmp_path))  # type: ignore[arg-type]
    assert {path.name for path in folder.iterdir()} == {
        "last.safetensors", "best.safetensors", "1.safetensors", "mine.safetensors",
    }  # fmt: skip


def test_files_of_an_earlier_template_go_in_their_turn(tmp_path: Path) -> None:
    store = keeper(tmp_path, save_top_k=1)
    save(store, 1, 5.0)
    resumed = Checkpoint(CheckpointSettings(save_top_k=1, filename="new-{step}"))
    resumed.load_state_dict(store.state_dict())
    resumed.on_start(Somewhere(tmp_path))  # type: ignore[arg-type]
    for step, score in ((2, 4.0), (3, 3.0)):
        save(resumed, step, score)
    assert steps(tmp_path) == {"last": 3, "best": 3, "new-2": 2, "new-3": 3}


def test_a_disk_that_is_full_without_hard_links_keeps_no_half_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = keeper(tmp_path)
    save(store, 1, 5.0)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    flushed: list[int] = []

    def full(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) > 2:  # the checkpoint and its folder; then its copy
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.safetensors'"):
        save(store, 2, 4.0)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]
    assert (steps(tmp_path)["last"], steps(tmp_path)["best"]) == (1, 1)


@pytest.mark.parametrize("filename", ["{step:q}", "{step}-{fd:d}", "{step:.0e}", "{step!s:.1}", "{step:{fd}}"])
def test_a_template_that_cannot_be_filled_in_or_tell_steps_apart_is_refused_at_once(filename: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.filename = .*(cannot format it|two steps would share a name)"):
        resolve(assignments=[f"checkpoint.filename='{filename}'"], environment={})


def test_a_time_between_saves_that_was_measured_is_kept(tmp_path: Path) -> None:
    store = keeper(tmp_path, every="100s")
    assert store.every is not None
    store.every.images = 12_345
    resumed = Checkpoint(CheckpointSettings(every=Duration.parse("100s")))
    resumed.load_state_dict(store.state_dict())
    assert resumed.state_dict() == store.state_dict()
    resumed.on_start(Somewhere(tmp_path))  # type: ignore[arg-type]
    assert resumed.state_dict() == store.state_dict()
