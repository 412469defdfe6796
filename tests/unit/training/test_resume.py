"""A resumed run continues exactly: it ends in the same state as an uninterrupted run."""

import os
import re
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ganctl.training.callbacks import SignalHandler, default_callbacks
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.errors import DataError
from ganctl.training.loop import build
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from ganctl.training.pretrained.projection import load_projection
from ganctl.training.sampling.inspection import open_checkpoint
from ganctl.training.step.cuda_graph import StepRunner
from tests.any_images import disks, save_folder
from tests.conftest import PRESETS, SHORT, SMALL, launch
from tests.states import assert_same_events, assert_same_run, leaves, timeless_rows
from tests.unit.training.failing import FailOnce
from tests.unit.training.folders import fill, fill_flat
from tests.unit.training.recorded import recorded


@pytest.mark.parametrize("preset", [PRESETS[0], pytest.param(PRESETS[1], marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "stop", [pytest.param(7, marks=pytest.mark.soak), pytest.param(20, marks=pytest.mark.soak), 25]
)  # before the first evaluation, on one, between two
def test_a_resumed_run_ends_bit_identical_to_an_uninterrupted_run(preset: str, stop: int, tmp_path: Path) -> None:
    early = ("early_stopping.patience=9",)
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch(uninterrupted, preset=preset, extra=early).build(max_steps=40).fit()
    launch(resumed, preset=preset, extra=early).build(max_steps=stop).fit()
    result = launch(resumed, resume="auto").build(max_steps=40).fit()
    assert result.steps == 40
    assert_same_run(uninterrupted, resumed)
    assert [row["step"] for row in timeless_rows(resumed)] == [10, 10, 20, 20, 30, 30, 40, 40]


def test_a_resumed_run_with_adaptive_augmentation_ends_bit_identical(tmp_path: Path) -> None:
    settings = ("augment.probability=adaptive", "augment.flip=true", "augment.ramp=320", "augment.target=0.001")
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch(uninterrupted, extra=settings).build(max_steps=20).fit()
    launch(resumed, extra=settings).build(max_steps=13).fit()
    launch(resumed, resume="auto").build(max_steps=20).fit()
    assert_same_run(uninterrupted, resumed)
    probabilities = [row["augment_probability"] for row in timeless_rows(resumed) if "augment_probability" in row]
    assert len(probabilities) == 2
    assert probabilities[0] != probabilities[1]


@pytest.mark.parametrize("channels", [pytest.param(3, marks=pytest.mark.soak), 4])
def test_a_resumed_run_on_pretrained_features_ends_bit_identical_and_does_not_save_them(
    channels: int, tmp_path: Path
) -> None:
    source = save_folder(tmp_path / "disks", disks(60, 32)[..., :channels], labeled=True)
    data = (f"data.source={source}", "data.num_workers=0", "train.batch_size=8")
    settings = (*data, "augment.probability=adaptive", "augment.ramp=100", "augment.target=0.001", "loss.r1=0.1")
    for folder, stops in (("uninterrupted", (12,)), ("resumed", (5, 12))):
        launch(tmp_path / folder, preset="residual", extra=settings).build(max_steps=stops[0]).fit()
        for stop in stops[1:]:
            launch(tmp_path / folder, resume="auto").build(max_steps=stop).fit()
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed")
    state = leaves(read_checkpoint(tmp_path / "resumed/checkpoints/last.safetensors").state)
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    for weight in load_projection(torch.device("cpu"), torch.float32).parameters():
        assert not any(each.shape == weight.shape and torch.equal(each.float(), weight) for each in tensors)


class Stop(Callback):
    """Stops a run at a step: by a signal or a stop request."""

    def __init__(self, step: int, cause: str) -> None:
        self._step, self._cause = step, cause

    def on_step(self, run: Run) -> None:
        if run.step != self._step:
            return
        if self._cause == "max-time":
            run.request_stop("max-time")
        if self._cause == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)

    def on_checkpoint(self, run: Run, path: Path) -> None:
        if self._cause == "signal during a save" and run.step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def uninterrupted_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of 38 steps of each preset, with all output switched on."""
    runs = {preset: tmp_path_factory.mktemp("uninterrupted") / preset for preset in PRESETS}
    for preset, run_dir in runs.items():
        launch(run_dir, preset=preset, extra=ALL_OUTPUT).build(max_steps=38).fit()
    return runs


ALL_OUTPUT = (
    "log.tensorboard=true", "early_stopping.patience=9", "checkpoint.every=224 images",
    "checkpoint.filename='{step:04d}-{fd:.3f}'",
)  # fmt: skip


@pytest.mark.parametrize("preset", [PRESETS[0], pytest.param(PRESETS[1], marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("cause", "step"),
    # the run resumes from the step of the stop, from the last save, or from the last evaluation; the next save after
    # step 31 is without an evaluation
    [
        ("SIGTERM", 25),
        ("error", 32),
        ("signal during a save", 28),
        *(pytest.param(*case, marks=pytest.mark.soak) for case in (("max-time", 25), ("max-time", 31), ("error", 29))),
    ],
)
def test_a_run_stopped_by_a_signal_an_error_or_a_request_resumes_exactly(
    preset: str, cause: str, step: int, uninterrupted_runs: dict[str, Path], tmp_path: Path
) -> None:
    uninterrupted, run_dir = uninterrupted_runs[preset], tmp_path / "run"
    first = launch(run_dir, preset=preset, extra=ALL_OUTPUT).build(
        callbacks=[FailOnce(step) if cause == "error" else Stop(step, cause)]
    )
    if cause == "error":
        with pytest.raises(RuntimeError, match=f"step {step}"):
            first.fit()
    else:
        assert first.fit().stop_reason == ("max-time" if cause == "max-time" else "SIGTERM")
    launch(run_dir, resume="auto").build(max_steps=38).fit()
    assert_same_run(uninterrupted, run_dir)
    assert_same_events(uninterrupted, run_dir)


def test_a_run_in_bf16_resumes_exactly(tmp_path: Path) -> None:
    extra = ("train.precision=bf16", "loss.r1=0", "loss.r2=0")
    launch(tmp_path / "uninterrupted", extra=extra).build(max_steps=12).fit()
    launch(tmp_path / "resumed", extra=extra).build(max_steps=5).fit()
    launch(tmp_path / "resumed", resume="auto").build(max_steps=12).fit()
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "resumed")


def test_calling_fit_again_continues_the_run_exactly(tmp_path: Path) -> None:
    config, _ = resolve(assignments=SHORT, environment={})
    Trainer(config, run_dir=tmp_path / "uninterrupted", callbacks=default_callbacks(config)).fit(max_steps=20)
    trainer = Trainer(config, run_dir=tmp_path / "repeated", callbacks=default_callbacks(config))
    assert trainer.fit(max_steps=7).steps == 7
    assert trainer.fit(max_steps=20).steps == 20
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "repeated")


def test_calling_fit_after_an_error_continues_from_the_last_checkpoint(
    uninterrupted_runs: dict[str, Path], tmp_path: Path
) -> None:
    config = launch(tmp_path, extra=ALL_OUTPUT).config
    trainer = Trainer(config, run_dir=tmp_path / "run", callbacks=[*default_callbacks(config), FailOnce(26)])
    with pytest.raises(RuntimeError, match="step 26"):
        trainer.fit(max_steps=38)
    trainer.fit(max_steps=38)
    one, two = (
        read_checkpoint(run / "checkpoints/last.safetensors").state
        for run in (uninterrupted_runs["conv"], trainer.run_dir)
    )
    assert two["callbacks"].pop("FailOnce") == {}
    assert str(one) == str(two)
    for name, weight in one["networks"]["ema"].items():
        assert torch.equal(weight, two["networks"]["ema"][name])


def test_fit_without_a_limit_ignores_the_limit_of_an_earlier_call(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[*SHORT, "train.duration=160 images"], environment={})
    trainer = Trainer(config, run_dir=tmp_path / "run", ranks=None)
    assert (trainer.fit(max_steps=2).stop_reason, trainer.step) == ("max-steps", 2)
    assert (trainer.fit().stop_reason, trainer.step) == ("completed", 5)


class Dropout(Callback):
    """Makes the generator draw from PyTorch's global random numbers, as custom networks may."""

    every_rank = True

    def on_start(self, run: Run) -> None:
        assert isinstance(run, Trainer)
        for network in (run.parts.step.generator, run.generator):
            network.register_forward_hook(lambda module, inputs, images: images * (0.9 + 0.1 * torch.rand(1)))
        torch.rand(7)  # each start draws these numbers; resuming must restore the state from before


def test_resuming_restores_the_global_random_state_that_networks_draw_from(tmp_path: Path) -> None:
    extra = ("log.tensorboard=true", "checkpoint.every=224 images")
    launch(tmp_path / "uninterrupted", extra=extra).build(max_steps=38, callbacks=[Dropout()]).fit()
    launch(tmp_path / "resumed", extra=extra).build(max_steps=33, callbacks=[Dropout()]).fit()
    launch(tmp_path / "resumed", resume="auto").build(max_steps=38, callbacks=[Dropout()]).fit()
    one, two = (
        read_checkpoint(tmp_path / f"{n}/checkpoints/last.safetensors").state for n in ("uninterrupted", "resumed")
    )
    for name, weight in one["networks"]["generator"].items():
        assert torch.equal(weight, two["networks"]["generator"][name]), name


@pytest.mark.parametrize("hook", ["on_evaluation", "on_checkpoint"])
def test_a_signal_during_the_last_evaluation_or_save_is_the_stop_reason(hook: str, tmp_path: Path) -> None:
    class SignalInHook(Callback):
        def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
            if hook == "on_evaluation":
                os.kill(os.getpid(), signal.SIGTERM)

        def on_checkpoint(self, run: Run, path: Path) -> None:
            if hook == "on_checkpoint":
                os.kill(os.getpid(), signal.SIGTERM)

    config, _ = resolve(assignments=SHORT, environment={})
    result = Trainer(config, run_dir=tmp_path / "run", callbacks=[SignalInHook(), SignalHandler()], max_steps=3).fit()
    assert (result.stop_reason, result.steps) == ("SIGTERM", 3)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.safetensors").step == 3


def test_resuming_reports_missing_callbacks_and_another_number_of_threads(tmp_path: Path) -> None:
    launch(tmp_path / "run").build(max_steps=2, callbacks=[Stop(99, "never")]).fit()
    messages: list[str] = []
    Session(run_dir=tmp_path / "run", resume="auto", announce=messages.append).build()
    assert [text for text in messages if re.search(r"\bStop\b.*--callback", text)]
    assert not [text for text in messages if "threads" in text]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        Session(run_dir=tmp_path / "run", resume="auto", announce=messages.append).build()
    finally:
        torch.set_num_threads(threads)
    assert [text for text in messages if re.search(rf"\b{threads + 1} threads .*\b{threads}\b", text)]


def test_a_captured_run_continued_by_the_same_trainer_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find_eager_reason", lambda *_: None)
    monkeypatch.setattr(build, "StepRunner", partial(StepRunner, capture=recorded))
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch(uninterrupted).build(max_steps=40).fit()
    trainer = launch(resumed).build()
    trainer.fit(max_steps=17)
    trainer.fit(max_steps=40)
    assert trainer.parts.step_runner.replays, "nothing was captured"
    assert_same_run(uninterrupted, resumed)


@pytest.mark.parametrize("write", [fill, fill_flat])
def test_a_run_on_a_folder_finds_its_images_again_and_data_source_names_moved_ones(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, moved, run_dir = write(tmp_path / "images"), tmp_path / "moved", tmp_path / "run"
    settings = (*SMALL, f"data.source={images}", "data.num_workers=0", "train.batch_size=8")
    first = Session(assignments=settings, run_dir=run_dir).build(max_steps=1)
    first.fit()
    opened = open_checkpoint(run_dir)
    assert (opened.data.source, opened.data_error) == (str(images), None)
    assert Session(run_dir=run_dir, resume="auto").build(max_steps=2).fit().steps == 2
    images.rename(moved)
    with pytest.raises(DataError, match=rf"^data\.source: {images} "):
        Session(run_dir=run_dir, resume="auto").build()
    resumed = Session(run_dir=run_dir, resume="auto", assignments=[f"data.source={moved}"]).build(max_steps=3)
    assert resumed.parts.data_identity == first.parts.data_identity
    assert resumed.fit().steps == 3
