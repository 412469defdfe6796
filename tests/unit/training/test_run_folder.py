"""Folders that a run may use: an empty one or its own after a failed start, but no foreign one and none in use."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ganctl.training.callbacks import Progress
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.checkpoint.run_dir import find_checkpoint
from ganctl.training.errors import CheckpointError, FolderInUse
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from tests.conftest import SHORT, launch
from tests.states import assert_same_events, assert_same_run
from tests.unit.training.failing import FailOnce

LOGGED = ("log.every=2", "log.tensorboard=true")


def failed_start(run_dir: Path) -> None:
    """Leaves the folder of a run that failed after six steps, before its first checkpoint."""
    with pytest.raises(RuntimeError, match="step 6"):
        launch(run_dir, extra=LOGGED).build(callbacks=[FailOnce(6)]).fit()


@pytest.mark.parametrize("resume", ["auto", pytest.param(None, marks=pytest.mark.soak)])
def test_restarting_after_a_failed_start_gives_the_same_run_as_in_a_new_folder(
    resume: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, again = tmp_path / "new", tmp_path / "again"
    launch(new, extra=LOGGED).build(max_steps=20).fit()
    failed_start(again)
    (again / "checkpoints/.ganctl-1-0123abcd.safetensors").write_bytes(b"cut short")  # as a kill during a save does
    (again / "profile").mkdir()
    (again / "profile/host_1.pt.trace.json.gz").touch()
    (again / "samples/00000003.png").touch()
    failed_log = (again / "log.txt").read_text()
    caplog.clear()

    with caplog.at_level(logging.WARNING):
        Session(preset="conv", assignments=[*SHORT, *LOGGED], run_dir=again, resume=resume).build(max_steps=20).fit()
    assert_same_run(new, again)
    assert_same_events(new, again)
    assert len(list(again.glob("events.out.tfevents.*"))) == 1
    assert not list((again / "profile").iterdir())
    assert (again / "log.txt").read_text().count("begins at step") == 1
    assert (again / "log.old.txt").read_text() == failed_log
    assert [text for text in caplog.messages if str(again) in text and "log.old.txt" in text], caplog.messages


@pytest.mark.parametrize("name", ["notes.txt", "config.toml.bak", "model.pt"])
def test_restarting_after_a_failed_start_keeps_the_files_of_callbacks(name: str, tmp_path: Path) -> None:
    failed_start(tmp_path)
    (tmp_path / name).write_text("mine")
    launch(tmp_path, extra=LOGGED).build(max_steps=1).fit()
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "log.txt").read_text().count("begins at step") == 1


@pytest.mark.parametrize("name", ["notes.txt", "model.pt"])
def test_a_folder_that_only_resembles_a_failed_start_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(FolderInUse, match=rf"--run-dir {tmp_path}: .*\b{name}\b"):
        launch(tmp_path)


@pytest.mark.parametrize("name", ["config.toml", "log.txt", "stats.jsonl", "samples"])
def test_a_folder_with_one_entry_named_like_that_of_a_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FolderInUse, match=rf"--run-dir {tmp_path}: .*\b{name}\b"):
        launch(tmp_path)


def test_a_trainer_deletes_nothing_in_a_folder_with_foreign_files(tmp_path: Path) -> None:
    failed_start(tmp_path)
    before = (tmp_path / "log.txt").read_text()
    (tmp_path / "config.toml").unlink()
    (tmp_path / "notes.txt").touch()
    Trainer(launch(tmp_path / "run").config, run_dir=tmp_path, callbacks=[Progress()]).fit(max_steps=1)
    assert (tmp_path / "log.txt").read_text().startswith(before)


class CallOnce(Callback):
    """Calls a function after the first step."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self.done = function, False

    def on_step(self, run: Run) -> None:
        if not self.done:
            self._function()
            self.done = True


@pytest.mark.parametrize("resume", ["auto", pytest.param(None, marks=pytest.mark.soak)])
def test_a_folder_in_use_is_refused_with_the_process_named_and_is_free_afterwards(
    resume: str | None, tmp_path: Path
) -> None:
    launch(tmp_path / "other").build(max_steps=2).fit()
    second = Session(run_dir=tmp_path / "other", resume="auto").build(max_steps=4)

    def try_to_train() -> None:
        refused = pytest.raises(FolderInUse, match=rf"--run-dir {tmp_path / 'run'}: .*\b{os.getpid()}\b")
        with refused:
            Session(run_dir=tmp_path / "run", resume=resume)
        with refused:
            Session(run_dir=tmp_path / "run", resume=str(tmp_path / "other"))
        with refused:
            Trainer(second.config, run_dir=tmp_path / "run").fit()

    call_once = CallOnce(try_to_train)
    launch(tmp_path / "run").build(max_steps=3, callbacks=[call_once]).fit()
    assert call_once.done
    assert launch(tmp_path / "run", resume="auto").build(max_steps=5).fit().steps == 5


def test_a_run_that_another_process_has_continued_since_it_was_read_is_refused(tmp_path: Path) -> None:
    launch(tmp_path).build(max_steps=2).fit()
    late = launch(tmp_path, resume="auto").build(max_steps=6)
    launch(tmp_path, resume="auto").build(max_steps=4).fit()
    with pytest.raises(FolderInUse, match=rf"--run-dir {tmp_path}: .*\b{os.getpid()}\b.*again"):
        late.fit()
    assert launch(tmp_path, resume="auto").build(max_steps=6).fit().steps == 6


def test_a_run_in_progress_may_be_inspected(tmp_path: Path) -> None:
    descriptions = []

    def inspect() -> None:
        descriptions.append(Session(run_dir=tmp_path, resume="auto", dry_run=True).build().describe())
        with pytest.raises(CheckpointError, match=rf"{tmp_path}: .*\bbest\b"):
            find_checkpoint(tmp_path)

    launch(tmp_path).build(max_steps=3, callbacks=[CallOnce(inspect)]).fit()
    assert descriptions


def test_runs_that_start_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    starts = [Session(preset="conv", assignments=[*SHORT, f"log.root={tmp_path}"]) for _ in range(2)]
    assert starts[0].run_dir == starts[1].run_dir
    with starts[0].reserve_run_dir() as first, starts[1].reserve_run_dir() as second:
        (first / "something").touch()
        assert first != second
    assert first.exists(), "its ranks have written a file"
    assert not second.exists()
