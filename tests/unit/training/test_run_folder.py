"""Which folders a run may enter: its own again after a start that failed, no other's, and none that is trained in."""

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

LOGGED = ("log.every=2", "log.tensorboard=true")


class Failing(Callback):
    def on_step(self, run: Run) -> None:
        if run.step == 6:
            raise RuntimeError("as if the machine had failed")


def failed_start(run_dir: Path) -> None:
    """Leaves a run of six steps that was never saved."""
    with pytest.raises(RuntimeError, match="as if"):
        launch(run_dir, extra=LOGGED).build(callbacks=[Failing()]).fit()


@pytest.mark.parametrize("resume", ["auto", pytest.param(None, marks=pytest.mark.soak)])
def test_the_same_command_after_a_failed_start_gives_the_run_that_a_new_folder_gives(
    resume: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    launch(whole, extra=LOGGED).build(max_steps=20).fit()
    failed_start(again)
    (again / "checkpoints/.ganctl-1-0123abcd.safetensors").write_bytes(b"cut short")  # as a kill in a save leaves it
    (again / "profile").mkdir()
    (again / "profile/host_1.pt.trace.json.gz").touch()
    (again / "samples/00000003.png").touch()
    failed_log = (again / "log.txt").read_text()
    caplog.clear()

    with caplog.at_level(logging.WARNING):
        Session(preset="conv", assignments=[*SHORT, *LOGGED], run_dir=again, resume=resume).build(max_steps=20).fit()
    assert_same_run(whole, again)
    assert_same_events(whole, again)
    assert len(list(again.glob("events.out.tfevents.*"))) == 1
    assert not list((again / "profile").iterdir())
    assert (again / "log.txt").read_text().count("begins at step") == 1
    assert (again / "log.old.txt").read_text() == failed_log
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "an earlier start left no checkpoint" in text and str(again) in text], told


@pytest.mark.parametrize("name", ["notes.txt", "config.toml.bak", "model.pt"])
def test_a_file_that_a_callback_has_left_in_a_failed_start_hinders_nothing_and_stays(name: str, tmp_path: Path) -> None:
    failed_start(tmp_path)
    (tmp_path / name).write_text("mine")
    launch(tmp_path, extra=LOGGED).build(max_steps=1).fit()
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "log.txt").read_text().count("begins at step") == 1


@pytest.mark.parametrize("name", ["notes.txt", "model.pt"])
def test_a_folder_that_only_resembles_a_failed_start_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(FolderInUse, match=rf"--run-dir .*found {name}, expected an empty folder or a run"):
        launch(tmp_path)


@pytest.mark.parametrize("name", ["config.toml", "log.txt", "stats.jsonl", "samples"])
def test_files_named_as_a_runs_are_foreign_where_no_run_has_begun(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FolderInUse, match=rf"found {name}, expected an empty folder or a run"):
        launch(tmp_path)


def test_a_trainer_deletes_nothing_beside_foreign_files(tmp_path: Path) -> None:
    failed_start(tmp_path)
    before = (tmp_path / "log.txt").read_text()
    (tmp_path / "config.toml").unlink()
    (tmp_path / "notes.txt").touch()
    Trainer(launch(tmp_path / "run").config, run_dir=tmp_path, callbacks=[Progress()]).fit(max_steps=1)
    assert (tmp_path / "log.txt").read_text().startswith(before)


class Meanwhile(Callback):
    """Does something once, while the run is going on."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self.done = work, False

    def on_step(self, run: Run) -> None:
        if not self.done:
            self._work()
            self.done = True


@pytest.mark.parametrize("resume", ["auto", pytest.param(None, marks=pytest.mark.soak)])
def test_a_folder_that_is_trained_in_is_refused_with_who_does_and_free_afterwards(
    resume: str | None, tmp_path: Path
) -> None:
    launch(tmp_path / "other").build(max_steps=2).fit()
    second = Session(run_dir=tmp_path / "other", resume="auto").build(max_steps=4)

    def try_to_train() -> None:
        with pytest.raises(FolderInUse, match=rf"--run-dir .*process {os.getpid()} on \S+ \(since .* trains in it"):
            Session(run_dir=tmp_path / "run", resume=resume)
        with pytest.raises(FolderInUse, match="trains in it"):
            Session(run_dir=tmp_path / "run", resume=str(tmp_path / "other"))
        with pytest.raises(FolderInUse, match="trains in it"):
            Trainer(second.config, run_dir=tmp_path / "run").fit()

    meanwhile = Meanwhile(try_to_train)
    launch(tmp_path / "run").build(max_steps=3, callbacks=[meanwhile]).fit()
    assert meanwhile.done
    assert launch(tmp_path / "run", resume="auto").build(max_steps=5).fit().steps == 5


def test_a_run_that_another_process_has_continued_meanwhile_is_not_continued_from_before(tmp_path: Path) -> None:
    launch(tmp_path).build(max_steps=2).fit()
    late = launch(tmp_path, resume="auto").build(max_steps=6)
    launch(tmp_path, resume="auto").build(max_steps=4).fit()
    with pytest.raises(FolderInUse, match="trained in it after this command had read it"):
        late.fit()
    assert launch(tmp_path, resume="auto").build(max_steps=6).fit().steps == 6


def test_looking_at_a_run_in_work_is_not_refused(tmp_path: Path) -> None:
    told = []

    def look() -> None:
        told.append(Session(run_dir=tmp_path, resume="auto", dry_run=True).build().describe())
        with pytest.raises(CheckpointError, match="no best checkpoint yet"):
            find_checkpoint(tmp_path)

    launch(tmp_path).build(max_steps=3, callbacks=[Meanwhile(look)]).fit()
    assert told


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    starts = [Session(preset="conv", assignments=[*SHORT, f"log.root={tmp_path}"]) for _ in range(2)]
    assert starts[0].run_dir == starts[1].run_dir
    with starts[0].reserve_run_dir() as first, starts[1].reserve_run_dir() as second:
        (first / "something").touch()
        assert first != second
    assert first.exists(), "its ranks have put something there"
    assert not second.exists()
