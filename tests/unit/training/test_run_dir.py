"""Run folders are numbered; their checkpoints are last, best and the top k, as the settings say."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ganctl.training.callbacks import Checkpoint
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.checkpoint.run_dir import find_checkpoint, newest_checkpoint, next_run_dir
from ganctl.training.config.duration import Duration
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import CheckpointSettings
from ganctl.training.errors import CheckpointError, ConfigError


class FakeRun:
    """The part of a run that the callback Checkpoint reads when it starts."""

    epoch_images = 1000

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir


def start(run_dir: Path, resumed: dict[str, Any] | None = None, **settings: Any) -> Checkpoint:
    """Returns the callback Checkpoint, started in a run folder; `resumed` is the state of an earlier one."""
    checkpoint = Checkpoint(CheckpointSettings.model_validate(settings))
    if resumed is not None:
        checkpoint.load_state_dict(resumed)
    checkpoint.on_start(FakeRun(run_dir))  # type: ignore[arg-type]
    return checkpoint


@pytest.fixture
def without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the file system refuse hard links."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)


def state(step: int) -> dict[str, Any]:
    return {"progress": {"step": step}, "metrics": {}}


def save(checkpoint: Checkpoint, step: int, score: float | None) -> None:
    scores = {} if score is None else {checkpoint.required_scores[0]: score}
    best = checkpoint.register(step, 10 * step, scores, fresh=score is not None)
    checkpoint.write(state(step), best=best)


def steps(run_dir: Path) -> dict[str, int]:
    """Returns the step of each checkpoint file by its name without suffix."""
    return {path.stem: read_checkpoint(path).step for path in (run_dir / "checkpoints").iterdir()}


def test_run_folders_are_numbered_and_may_be_named(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[f"log.root={tmp_path}"], environment={})
    (tmp_path / "00011-other").mkdir()
    folder = next_run_dir(config)
    assert folder.name == "00012-conv-mnist"
    folder.mkdir()
    assert next_run_dir(config).name == "00013-conv-mnist"
    named, _ = resolve(assignments=[f"log.root={tmp_path}", "log.name=warm-up"], environment={})
    assert next_run_dir(named).name == "00013-warm-up"


def test_only_last_best_and_the_top_k_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, save_top_k=2)
    for step, score in enumerate([5.0, 3.0, 4.0, 9.0, 8.0, 7.0], start=1):
        save(checkpoint, step, score)
    assert steps(tmp_path) == {
        "last": 6, "best": 2, "step-00000002": 2, "step-00000003": 3, "step-00000005": 5, "step-00000006": 6,
    }  # fmt: skip


def test_with_mode_max_the_highest_score_is_best(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, mode="max", monitor="label_accuracy")
    for step, score in enumerate([0.5, 0.9, 0.7], start=1):
        save(checkpoint, step, score)
    assert steps(tmp_path)["best"] == 2


def test_best_is_the_latest_checkpoint_that_reaches_the_monitor_threshold(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, monitor="fd_ratio", monitor_threshold=1.25, save_top_k=2)
    best = []
    for step, score in enumerate([3.0, 1.0, 1.25, 1.3, 1.2, 1.26], start=1):
        save(checkpoint, step, score)
        best.append(steps(tmp_path)["best"])
    assert best == [1, 2, 3, 3, 5, 5]
    assert steps(tmp_path) == {
        "last": 6, "best": 5, "step-00000003": 3, "step-00000005": 5, "step-00000006": 6,
    }  # fmt: skip
    assert checkpoint.beats({"fd_ratio": 1.25})
    assert not checkpoint.beats({"fd_ratio": 1.26})


def test_the_monitor_threshold_is_a_minimum_for_scores_to_maximize(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, monitor="label_accuracy", monitor_threshold=0.99)
    for step, score in enumerate([0.995, 0.98, 0.991, 0.9], start=1):
        save(checkpoint, step, score)
    assert steps(tmp_path)["best"] == 3


def test_a_checkpoint_without_a_score_is_last_but_never_best(tmp_path: Path) -> None:
    checkpoint = start(tmp_path)
    save(checkpoint, 1, None)
    assert "best" not in steps(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{tmp_path}: .*\bbest\b.*{tmp_path}/checkpoints\b") as raised:
        find_checkpoint(tmp_path)
    assert raised.value.exit_code == 4


def test_the_newest_intact_checkpoint_is_found_and_damaged_ones_are_reported(tmp_path: Path) -> None:
    checkpoint = start(tmp_path)
    save(checkpoint, 1, 2.0)
    save(checkpoint, 2, 3.0)
    damaged = [tmp_path / "checkpoints" / name for name in ("last.safetensors", "step-00000002.safetensors")]
    for path in damaged:
        path.write_bytes(b"cut")
    messages: list[str] = []
    newest = newest_checkpoint(tmp_path, messages.append)
    assert newest is not None
    assert newest.step == 1
    assert len(messages) == 2
    assert all(str(path) in message for path, message in zip(damaged, messages, strict=True))


def test_a_run_with_only_damaged_checkpoints_is_an_error_and_an_empty_folder_is_not(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, print) is None
    save(start(tmp_path), 1, None)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=rf"{tmp_path}\S*: .*\b2\b.*damaged.*--run-dir"):
        newest_checkpoint(tmp_path, lambda text: None)


def test_resuming_restores_the_best_checkpoint_from_before_an_unscheduled_stop(tmp_path: Path) -> None:
    checkpoint = start(tmp_path)
    save(checkpoint, 1, 5.0)
    kept = checkpoint.state_dict()
    checkpoint.write(state(2), best=True, listed=False)  # at the stop by a limit, with a good score
    assert steps(tmp_path)["best"] == 2
    start(tmp_path, kept)
    assert steps(tmp_path)["best"] == 1


def test_names_of_checkpoints_may_contain_scores(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, filename="{step:04d}-fd={fd:.1f}", save_top_k=1)
    for step, score in enumerate([None, 7.25, 9.0, 8.0], start=1):
        save(checkpoint, step, score)
    assert steps(tmp_path) == {"last": 4, "best": 2, "0002-fd=7.2": 2, "0003-fd=9.0": 3, "0004-fd=8.0": 4}
    (tmp_path / "checkpoints/mine.safetensors").write_bytes(b"a copy by the user")
    save(checkpoint, 5, 6.0)
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {
        "last", "best", "0004-fd=8.0", "0005-fd=6.0", "mine",
    }  # fmt: skip


@pytest.mark.usefixtures("without_hard_links")
def test_without_hard_links_checkpoints_are_copied(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, save_top_k=1)
    for step, score in enumerate([3.0, 5.0, 2.0], start=1):
        save(checkpoint, step, score)
    assert steps(tmp_path) == {"last": 3, "best": 3, "step-00000002": 2, "step-00000003": 3}


def test_without_save_last_a_completed_run_deletes_its_last_checkpoint(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, save_top_k=1, save_last=False)
    for step, score in enumerate([3.0, 5.0, 6.0], start=1):
        save(checkpoint, step, score)
    checkpoint.on_end(None, "max-steps", {})  # type: ignore[arg-type]
    assert "last" in steps(tmp_path), "a stopped run may be resumed"
    checkpoint.on_end(None, "completed", {})  # type: ignore[arg-type]
    assert steps(tmp_path) == {"best": 1, "step-00000001": 1}


@pytest.mark.parametrize(
    ("filename", "message"),
    [("model", r"{step}"), ("last-{step}", r"\blast\b"), ("a/{step}", r"'/'"), ("{step", r"{fd:\.2f}"),
     ("{step}{x.y}", r"'x'.*{fd:\.2f}")],
)  # fmt: skip
def test_an_invalid_checkpoint_filename_is_refused(filename: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"checkpoint\.filename = '{re.escape(filename)}': .*{message}"):
        resolve(assignments=[f"checkpoint.filename='{filename}'"], environment={})


@pytest.mark.parametrize(("exists", "cause"), [(False, "(?!.*checkpoints/)"), (True, ".*checkpoints/")])
def test_a_source_that_is_no_run_is_an_error_with_its_path(exists: bool, cause: str, tmp_path: Path) -> None:
    source = tmp_path / "x"
    if exists:
        source.mkdir()
    with pytest.raises(CheckpointError, match=f"{source}: {cause}"):
        find_checkpoint(source)


def test_resuming_deletes_the_files_of_a_killed_process_and_keeps_those_of_the_user(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, filename="{step}")
    save(checkpoint, 1, 5.0)
    folder = tmp_path / "checkpoints"
    for name in (".ganctl-4711-0a1b2c3d.safetensors", ".ganctl-4711-4e5f6071", "2.safetensors", "mine.safetensors"):
        (folder / name).write_bytes(b"x")
    start(tmp_path, checkpoint.state_dict(), filename="{step}")
    assert {path.name for path in folder.iterdir()} == {
        "last.safetensors", "best.safetensors", "1.safetensors", "mine.safetensors",
    }  # fmt: skip


def test_checkpoints_named_by_an_earlier_template_are_deleted_too(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, save_top_k=1)
    save(checkpoint, 1, 5.0)
    resumed = start(tmp_path, checkpoint.state_dict(), save_top_k=1, filename="new-{step}")
    for step, score in ((2, 4.0), (3, 3.0)):
        save(resumed, step, score)
    assert steps(tmp_path) == {"last": 3, "best": 3, "new-2": 2, "new-3": 3}


@pytest.mark.usefixtures("without_hard_links")
def test_a_full_disk_without_hard_links_leaves_no_partial_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = start(tmp_path)
    save(checkpoint, 1, 5.0)

    flushed: list[int] = []

    def full(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) > 2:  # 1: the checkpoint, 2: its folder, 3: the copy
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.safetensors'"):
        save(checkpoint, 2, 4.0)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]
    assert (steps(tmp_path)["last"], steps(tmp_path)["best"]) == (1, 1)


@pytest.mark.parametrize("filename", ["{step:q}", "{step}-{fd:d}", "{step:.0e}", "{step!s:.1}", "{step:{fd}}"])
def test_a_filename_template_that_fails_or_gives_two_steps_one_name_is_refused(filename: str) -> None:
    with pytest.raises(ConfigError, match=rf"checkpoint\.filename = '{re.escape(filename)}': "):
        resolve(assignments=[f"checkpoint.filename='{filename}'"], environment={})


def test_a_measured_checkpoint_interval_is_restored_on_resume(tmp_path: Path) -> None:
    checkpoint = start(tmp_path, every="100s")
    assert checkpoint.every is not None
    checkpoint.every.images = 12_345
    resumed = Checkpoint(CheckpointSettings(every=Duration.parse("100s")))
    resumed.load_state_dict(checkpoint.state_dict())
    assert resumed.state_dict() == checkpoint.state_dict()
    resumed.on_start(FakeRun(tmp_path))  # type: ignore[arg-type]
    assert resumed.state_dict() == checkpoint.state_dict()
