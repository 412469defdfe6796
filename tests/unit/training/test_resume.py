"""A run that was stopped, in whatever way, goes on as if it had not been."""

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ganctl.training.callbacks import SignalHandler, default_callbacks
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.loop import build as assembly
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from ganctl.training.step.cuda_graph import StepRunner
from tests.conftest import PRESETS, SHORT, launch
from tests.states import assert_same_events, assert_same_run, timeless_rows
from tests.unit.training.recorded import recorded


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "stop", [pytest.param(7, marks=pytest.mark.soak), 20, 25]
)  # before the first evaluation, on one, between two
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


class Stop(Callback):
    """Ends a run at a step: by a signal, by an error, or by asking."""

    def __init__(self, step: int, way: str) -> None:
        self._step, self._way = step, way

    def on_step(self, run: Run) -> None:
        if run.step != self._step:
            return
        if self._way == "error":
            raise RuntimeError("a callback's own defect")
        if self._way == "max-time":
            run.request_stop("max-time")
        if self._way == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)

    def on_checkpoint(self, run: Run, path: Path) -> None:
        if self._way == "signal during a save" and run.step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of 38 steps of each preset with everything that is written down, that nobody disturbed."""
    runs = {preset: tmp_path_factory.mktemp("whole") / preset for preset in PRESETS}
    for preset, run_dir in runs.items():
        launch(run_dir, preset=preset, extra=EVERYTHING).build(max_steps=38).fit()
    return runs


EVERYTHING = (
    "log.tensorboard=true", "early_stopping.patience=9", "checkpoint.every=224 images",
    "checkpoint.filename='{step:04d}-{fd:.3f}'",
)  # fmt: skip


@pytest.mark.parametrize("preset", [PRESETS[0], pytest.param(PRESETS[1], marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("way", "step"),
    # it goes on from the step itself, from the save before it, and from the evaluation before it; the next save after
    # 31 is none of an evaluation
    [
        ("SIGTERM", 25),
        ("error", 32),
        ("signal during a save", 28),
        *(pytest.param(*case, marks=pytest.mark.soak) for case in (("max-time", 25), ("max-time", 31), ("error", 29))),
    ],
)
def test_however_a_run_was_stopped_it_goes_on_as_if_it_had_not_been(
    preset: str, way: str, step: int, wholes: dict[str, Path], tmp_path: Path
) -> None:
    whole, run_dir = wholes[preset], tmp_path / "run"
    first = launch(run_dir, preset=preset, extra=EVERYTHING).build(callbacks=[Stop(step, way)])
    if way == "error":
        with pytest.raises(RuntimeError, match="own defect"):
            first.fit()
    else:
        assert first.fit().stop_reason == ("max-time" if way == "max-time" else "SIGTERM")
    launch(run_dir, resume="auto").build(max_steps=38).fit()
    assert_same_run(whole, run_dir)
    assert_same_events(whole, run_dir)


def test_a_run_in_bf16_resumes_exactly_too(tmp_path: Path) -> None:
    extra = ("train.precision=bf16", "loss.r1=0", "loss.r2=0")
    launch(tmp_path / "whole", extra=extra).build(max_steps=12).fit()
    launch(tmp_path / "parts", extra=extra).build(max_steps=5).fit()
    launch(tmp_path / "parts", resume="auto").build(max_steps=12).fit()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_fit_may_be_called_again_to_go_on_as_in_a_notebook(tmp_path: Path) -> None:
    config, _ = resolve(assignments=SHORT, environment={})
    Trainer(config, run_dir=tmp_path / "whole", callbacks=default_callbacks(config)).fit(max_steps=20)
    cells = Trainer(config, run_dir=tmp_path / "cells", callbacks=default_callbacks(config))
    assert cells.fit(max_steps=7).steps == 7
    assert cells.fit(max_steps=20).steps == 20
    assert_same_run(tmp_path / "whole", tmp_path / "cells")


def test_fit_goes_on_from_the_last_checkpoint_after_an_error_too(wholes: dict[str, Path], tmp_path: Path) -> None:
    class Once(Callback):
        failed = False

        def on_step(self, run: Run) -> None:
            if run.step == 26 and not self.failed:
                self.failed = True
                raise RuntimeError("a callback's own defect")

    config = launch(tmp_path, extra=EVERYTHING).config
    trainer = Trainer(config, run_dir=tmp_path / "run", callbacks=[*default_callbacks(config), Once()])
    with pytest.raises(RuntimeError, match="own defect"):
        trainer.fit(max_steps=38)
    trainer.fit(max_steps=38)
    one, two = (
        read_checkpoint(run / "checkpoints/last.safetensors").state for run in (wholes["conv"], trainer.run_dir)
    )
    assert two["callbacks"].pop("Once") == {}
    assert str(one) == str(two)
    for name, weight in one["networks"]["ema"].items():
        assert torch.equal(weight, two["networks"]["ema"][name])


def test_fit_without_a_limit_trains_to_the_end_whatever_limit_an_earlier_one_had(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[*SHORT, "train.duration=160 images"], environment={})
    trainer = Trainer(config, run_dir=tmp_path / "run", ranks=None)
    assert (trainer.fit(max_steps=2).stop_reason, trainer.step) == ("max-steps", 2)
    assert (trainer.fit().stop_reason, trainer.step) == ("completed", 5)


class Dropout(Callback):
    """Makes the generator draw from PyTorch's global random numbers, as networks of one's own may."""

    every_rank = True

    def on_start(self, run: Run) -> None:
        assert isinstance(run, Trainer)
        for network in (run.parts.step.generator, run.generator):
            network.register_forward_hook(lambda module, inputs, images: images * (0.9 + 0.1 * torch.rand(1)))
        torch.rand(7)  # what is drawn here, a run that does not stop has not drawn


def test_random_numbers_that_networks_draw_by_themselves_go_on_as_well(tmp_path: Path) -> None:
    extra = ("log.tensorboard=true", "checkpoint.every=224 images")
    launch(tmp_path / "whole", extra=extra).build(max_steps=38, callbacks=[Dropout()]).fit()
    launch(tmp_path / "parts", extra=extra).build(max_steps=33, callbacks=[Dropout()]).fit()
    launch(tmp_path / "parts", resume="auto").build(max_steps=38, callbacks=[Dropout()]).fit()
    one, two = (read_checkpoint(tmp_path / f"{n}/checkpoints/last.safetensors").state for n in ("whole", "parts"))
    for name, weight in one["networks"]["generator"].items():
        assert torch.equal(weight, two["networks"]["generator"][name]), name


@pytest.mark.parametrize("moment", ["on_evaluation", "on_checkpoint"])
def test_a_signal_during_the_last_look_or_save_of_a_limited_run_counts_as_an_interruption(
    moment: str, tmp_path: Path
) -> None:
    class Late(Callback):
        def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
            if moment == "on_evaluation":
                os.kill(os.getpid(), signal.SIGTERM)

        def on_checkpoint(self, run: Run, path: Path) -> None:
            if moment == "on_checkpoint":
                os.kill(os.getpid(), signal.SIGTERM)

    config, _ = resolve(assignments=SHORT, environment={})
    result = Trainer(config, run_dir=tmp_path / "run", callbacks=[Late(), SignalHandler()], max_steps=3).fit()
    assert (result.stop_reason, result.steps) == ("SIGTERM", 3)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.safetensors").step == 3


def test_what_a_run_had_and_its_continuation_has_not_is_told(tmp_path: Path) -> None:
    launch(tmp_path / "run").build(max_steps=2, callbacks=[Stop(99, "never")]).fit()
    told: list[str] = []
    Session(run_dir=tmp_path / "run", resume="auto", announce=told.append).build()
    assert "callbacks of the run that are missing now: Stop; add them with --callback" in told
    assert not [text for text in told if "threads" in text]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        Session(run_dir=tmp_path / "run", resume="auto", announce=told.append).build()
    finally:
        torch.set_num_threads(threads)
    assert f"{threads + 1} threads instead of {threads}: sums round differently from here on" in told


def test_a_captured_run_that_goes_on_in_the_same_trainer_ends_with_the_bits_of_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "find_eager_reason", lambda *_: None)
    monkeypatch.setattr(assembly, "StepRunner", partial(StepRunner, capture=recorded))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(whole).build(max_steps=40).fit()
    trainer = launch(parts).build()
    trainer.fit(max_steps=17)
    trainer.fit(max_steps=40)
    assert trainer.parts.step_runner.replays, "or nothing was captured"
    assert_same_run(whole, parts)
