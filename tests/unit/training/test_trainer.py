"""The loop: exact resume, a best checkpoint in every run, and callbacks in their order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SMALL, train_small
from tests.states import assert_same_run, timeless_rows
from training.callback import Callback, Run
from training.checkpoint import read_checkpoint
from training.errors import CheckpointError, ConfigError, TrainingError
from training.launch import FolderInUse, Launch
from training.settings import resolve
from training.trainer import Trainer

SHORT = (*SMALL, "train.batch_size=32", "train.horizon=1600 images", "evaluation.every=320 images")


def launch(run_dir: Path, *, preset: str = "conv", resume: str | None = None, extra: tuple[str, ...] = ()) -> Launch:
    assignments = () if resume else (*SHORT, *extra)
    return Launch(preset=None if resume else preset, assignments=assignments, run_dir=run_dir, resume=resume)


@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan"])
@pytest.mark.parametrize("stop", [7, 20, 25])  # before the first evaluation, on one, between two
def test_a_run_that_stops_and_resumes_ends_with_the_bits_of_one_that_does_not(
    preset: str, stop: int, tmp_path: Path
) -> None:
    early = ("early_stopping.patience=9",)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(whole, preset=preset, extra=early).build(max_steps=40).fit()
    launch(parts, preset=preset, extra=early).build(max_steps=stop).fit()
    result = launch(parts, resume="auto").build(max_steps=40).fit()
    assert result.steps == 40
    assert_same_run(whole, parts)
    assert [row["step"] for row in timeless_rows(parts)] == [10, 10, 20, 20, 30, 30, 40, 40]


@pytest.mark.parametrize("max_steps", [1, 13])
def test_a_run_however_short_ends_with_an_evaluation_and_a_best_checkpoint(max_steps: int, tmp_path: Path) -> None:
    result = launch(tmp_path / "run").build(max_steps=max_steps).fit()
    assert result.stopped_by == "max-steps"
    assert result.best is not None
    assert read_checkpoint(result.best).step == max_steps
    assert result.metrics["split"] == "val"
    assert result.metrics["fd"] > result.metrics["fd_floor"] > 0


def test_a_finished_run_is_scored_on_the_test_images_and_resuming_it_trains_no_further(tmp_path: Path) -> None:
    first = launch(tmp_path / "run").build().fit()
    assert (first.stopped_by, first.metrics["split"], first.metrics["n"]) == ("horizon", "test", 10_000)
    again = launch(tmp_path / "run", resume="auto").build().fit()
    assert (again.steps, again.metrics["fd"]) == (first.steps, first.metrics["fd"])


def test_best_is_the_checkpoint_with_the_least_distance_on_the_validation_images(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    result = launch(run_dir).build(max_steps=40).fit()
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["evaluation"]["fd"] for row in rows if "evaluation" in row}
    assert result.best is not None
    assert read_checkpoint(result.best).step == min(scores, key=lambda step: scores[step])


def test_a_horizon_given_as_a_time_becomes_images_once_and_is_kept(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = (*SMALL, "model.width=4", "train.horizon=3s")
    trainer = Launch(assignments=settings, run_dir=run_dir).build(max_steps=450)
    trainer.fit()
    horizon = trainer.horizon_images
    assert horizon is not None
    resumed = Launch(run_dir=run_dir, resume="auto").build()
    assert resumed.horizon_images == horizon


def test_more_epochs_may_be_asked_for_when_resuming_but_no_other_experiment(tmp_path: Path) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=5)
    longer = Launch(run_dir=run_dir, resume="auto", flags={"train.horizon": ("--epochs", "20 epochs")})
    assert longer.config.train.horizon.value == 20
    with pytest.raises(ConfigError, match=r"optimizer.lr = 0.5: the run has 0.003"):
        Launch(run_dir=run_dir, resume="auto", assignments=["optimizer.lr=0.5"])
    allowed = Launch(run_dir=run_dir, resume="auto", assignments=["optimizer.lr=0.5"], allow_changes=True)
    assert allowed.config.optimizer.lr == 0.5


def test_a_folder_with_a_run_is_not_written_over(small_run: Path) -> None:
    with pytest.raises(FolderInUse, match="--resume auto"):
        Launch(run_dir=small_run)


def test_resume_starts_fresh_where_there_is_nothing_and_needs_a_folder(tmp_path: Path) -> None:
    assert Launch(assignments=SMALL, run_dir=tmp_path / "new", resume="auto").build(max_steps=1).fit().steps == 1
    with pytest.raises(ConfigError, match="--run-dir"):
        Launch(resume="auto")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        Launch(resume=str(tmp_path / "absent.safetensors"))


def test_the_damaged_newest_checkpoint_is_passed_over_with_a_word(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launch(run_dir).build(max_steps=25).fit()
    last = run_dir / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    told: list[str] = []
    trainer = Launch(run_dir=run_dir, resume="auto", announce=told.append).build()
    assert trainer.step == 20
    assert "passed over" in told[0]


def test_a_checkpoint_of_other_networks_is_refused_with_a_reason(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit these settings"):
        Launch(
            run_dir=tmp_path / "run",
            resume=str(small_run / "checkpoints/last.safetensors"),
            assignments=["model.width=16"],
            allow_changes=True,
        ).build()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_size=60000", "only 55000 training images"),
        ("train.device=cuda", "sees no CUDA device"),
        ("checkpoint.monitor=fid", "'fid': no callback produces such a score; there are fd, fd_floor, label_accuracy"),
    ],
)
def test_settings_that_do_not_fit_data_or_machine_are_refused_before_a_step(
    assignment: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, _ = resolve(assignments=[assignment], environment={})
    with pytest.raises(ConfigError, match=message):
        Trainer(config, run_dir=tmp_path)


class Recorder(Callback):
    def __init__(self, name: str, events: list[str]) -> None:
        self.key = name
        self._name, self._events = name, events

    def on_start(self, run: Run) -> None:
        self._events.append(f"{self._name} start {run.step}")

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._events.append(f"{self._name} evaluation {run.step}")

    def on_checkpoint(self, run: Run, path: Path) -> None:
        self._events.append(f"{self._name} checkpoint {run.step}")

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._events.append(f"{self._name} log {run.step}")

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        self._events.append(f"{self._name} end {reason}")

    def close(self) -> None:
        self._events.append(f"{self._name} close")


class Failing(Callback):
    def on_step(self, run: Run) -> None:
        if run.step == 3:
            raise RuntimeError("a callback's own defect")


def small_trainer(tmp_path: Path, *callbacks: Callback, max_steps: int = 10) -> Trainer:
    config, _ = resolve(assignments=SMALL, environment={})
    return Trainer(config, run_dir=tmp_path, callbacks=callbacks, max_steps=max_steps)


def test_callbacks_run_in_order_and_close_in_reverse(tmp_path: Path) -> None:
    events: list[str] = []
    small_trainer(tmp_path, Recorder("a", events), Recorder("b", events)).fit()
    expected = ["start 0", "log 10", "evaluation 10", "checkpoint 10", "end max-steps"]
    assert events == [f"{name} {event}" for event in expected for name in "ab"] + ["b close", "a close"]


def test_an_error_in_a_callback_goes_through_and_everything_is_closed(tmp_path: Path) -> None:
    events: list[str] = []
    with pytest.raises(RuntimeError, match="own defect"):
        small_trainer(tmp_path, Recorder("a", events), Failing(), Recorder("b", events)).fit()
    assert events[-2:] == ["b close", "a close"]


def test_two_callbacks_with_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share a key"):
        small_trainer(tmp_path, Failing(), Failing())


def test_a_misspelt_hook_is_an_error_when_the_class_is_defined() -> None:
    with pytest.raises(TypeError, match="on_evalution is no hook; there are on_start"):

        class Misspelt(Callback):
            def on_evalution(self) -> None: ...


class Asking(Callback):
    def on_step(self, run: Run) -> None:
        if run.step == 4:
            run.request_checkpoint()
        if run.step == 6:
            run.request_evaluation()
        if run.step == 8:
            run.request_stop("enough")


def test_callbacks_may_ask_for_checkpoints_evaluations_and_the_end(tmp_path: Path) -> None:
    events: list[str] = []
    result = small_trainer(tmp_path, Asking(), Recorder("r", events)).fit()
    assert result.stopped_by == "enough"
    expected = ["checkpoint 4", "evaluation 6", "checkpoint 6", "evaluation 8", "checkpoint 8", "end enough", "close"]
    assert events[1:] == [f"r {event}" for event in expected]


class Poison(Callback):
    """Puts what is no number into the statistics, as a diverged loss would."""

    def on_step(self, run: Run) -> None:
        assert isinstance(run, Trainer)
        run._step._stats[0] = torch.nan


def test_a_loss_that_is_no_number_ends_the_run_and_names_it(tmp_path: Path) -> None:
    from training.callbacks import NonFinite

    with pytest.raises(TrainingError, match="loss_d became nan before step 10"):
        small_trainer(tmp_path, Poison(), NonFinite(), max_steps=20).fit()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"is no longer finite at step 5; the checkpoint before stays the last one"):
        launch(run_dir, extra=("optimizer.lr=1e30",)).build(max_steps=5).fit()
    assert list((run_dir / "checkpoints").iterdir()) == []


def test_a_run_that_goes_on_in_another_folder_has_its_checkpoints_there(tmp_path: Path) -> None:
    launch(tmp_path / "a").build(max_steps=20).fit()
    source = tmp_path / "a/checkpoints/last.safetensors"
    moved = Launch(run_dir=tmp_path / "b", resume=str(source))
    result = moved.build(max_steps=20).fit()
    assert result.best is not None
    assert result.last is not None
    assert read_checkpoint(result.best).step == read_checkpoint(result.last).step == 20
    with pytest.raises(FolderInUse, match="already holds a run"):
        Launch(run_dir=tmp_path / "b", resume=str(source))


def test_a_folder_with_other_peoples_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine = true")
    with pytest.raises(FolderInUse, match="something else than a run"):
        Launch(run_dir=tmp_path)


def test_an_early_stopped_run_stays_stopped_when_it_is_resumed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    extra = ("early_stopping.patience=1", "early_stopping.min_delta=1e9")
    first = launch(run_dir, extra=extra).build().fit()
    assert (first.stopped_by, first.steps) == ("early-stopping", 20)
    again = launch(run_dir, resume="auto").build().fit()
    assert (again.stopped_by, again.steps) == ("early-stopping", 20)


def test_a_new_time_horizon_is_measured_anew(tmp_path: Path) -> None:
    settings = (*SMALL, "model.width=4", "train.horizon=2s")
    Launch(assignments=settings, run_dir=tmp_path / "run").build(max_steps=400).fit()
    longer = Launch(assignments=["train.horizon=60s"], run_dir=tmp_path / "run", resume="auto").build()
    assert longer.horizon_images is None


def test_allowed_changes_reach_the_optimizer(tmp_path: Path) -> None:
    run_dir = train_small(tmp_path / "run", max_steps=3)
    changed = Launch(assignments=["optimizer.beta1=0.5"], run_dir=run_dir, resume="auto", allow_changes=True).build()
    assert changed._step.phases[0].optimizer.param_groups[0]["betas"] == (0.5, 0.99)


def test_more_label_accuracy_is_better_without_saying_so() -> None:
    from training.config import sign_of

    assert [sign_of("fd", "auto"), sign_of("label_accuracy", "auto"), sign_of("fd", "max")] == [1, -1, -1]


def test_an_unconditional_generator_cannot_be_watched_by_label_accuracy(tmp_path: Path) -> None:
    config, _ = resolve(preset="lightning-basic-gan", assignments=["checkpoint.monitor=label_accuracy"], environment={})
    with pytest.raises(
        ConfigError, match="'label_accuracy': no callback produces such a score; there are fd, fd_floor"
    ):
        Trainer(config, run_dir=tmp_path)
