"""The first minute of a run: a picture after a second of training, and no scorer before the first evaluation."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from ganctl.training.callbacks import SampleGrid, TimeLimit, samples
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.previews import fixed_grid
from ganctl.training.config.resolve import resolve
from ganctl.training.data.base import ImageSet
from ganctl.training.data.decoding_progress import show_progress
from ganctl.training.errors import DataError
from ganctl.training.evaluation.scorer import Scorer, load_scorer
from ganctl.training.loop.trainer import Trainer
from tests.conftest import SHORT
from tests.states import assert_same_state
from tests.unit.training.conftest import RegisterData
from tests.unit.training.fake_clock import FakeClock

EXTRA = ("train.batch_size=32", "evaluation.every=640 images")  # 20 steps


class TenthOfASecond(Callback):
    """Makes each step take 0.1 s; comes before all callbacks that read the time."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def on_step(self, run: Run) -> None:
        self._clock.now += 0.1


class RecordFirstPicture(Callback):
    """Records the steps after which `first.png` is new; comes after SampleGrid."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, run: Run) -> None:
        picture = run.run_dir / "first.png"
        if picture.exists():
            picture.unlink()
            self.steps.append(run.step)


@pytest.fixture
def scorer_loads(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> list[int]:
    """Makes loading the scorer take 90 s and draw random numbers; returns a list of the loads."""
    loads: list[int] = []

    def slow(*arguments: Any, **options: Any) -> Scorer:
        loads.append(1)
        clock.now += 90
        torch.rand(3)
        return load_scorer(*arguments, **options)

    monkeypatch.setattr("ganctl.training.callbacks.evaluation.load_scorer", slow)
    return loads


def trainer(run_dir: Path, clock: FakeClock, *callbacks: Callback, max_steps: int) -> Trainer:
    config, _ = resolve(preset="conv", assignments=[*SHORT, *EXTRA], environment={})
    callbacks = (TenthOfASecond(clock), *callbacks)
    return Trainer(config, run_dir=run_dir, callbacks=callbacks, max_steps=max_steps)


def test_the_first_picture_comes_after_a_second_of_training_and_before_the_scorer(
    tmp_path: Path,
    clock: FakeClock,
    scorer_loads: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    loads_at: list[int] = []

    class Watch(RecordFirstPicture):
        def on_log(self, run: Run, stats: Any) -> None:  # every 10 steps
            loads_at.append(len(scorer_loads))

    watch = Watch()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, clock, SampleGrid(), watch, max_steps=30).fit()
    assert watch.steps[0] in (10, 11), "a second is ten steps"
    assert loads_at == [0, 0, 1], "the evaluation after step 20 loads the scorer, once"
    lines = [line for line in caplog.messages if "first picture" in line]
    path = tmp_path / "first.png"
    assert lines == [f"step {watch.steps[0]}  first picture {path}; it is drawn anew until the first evaluation"]


def test_the_first_picture_is_drawn_anew_when_the_training_time_has_doubled_until_the_first_evaluation(
    tmp_path: Path, clock: FakeClock
) -> None:
    watch = RecordFirstPicture()
    config, _ = resolve(preset="conv", assignments=[*SHORT, "evaluation.every=1920 images"], environment={})  # 60 steps
    callbacks = (TenthOfASecond(clock), SampleGrid(), watch)
    Trainer(config, run_dir=tmp_path, callbacks=callbacks, max_steps=60).fit()
    assert watch.steps == pytest.approx([10, 20, 40], abs=4), "but not after the evaluation at step 60"


def test_a_run_that_ends_in_its_first_second_or_resumes_writes_no_first_picture(
    tmp_path: Path,
    clock: FakeClock,
) -> None:
    short = trainer(tmp_path, clock, SampleGrid(), max_steps=5)
    short.fit()
    short.fit(max_steps=30)
    assert not (tmp_path / "first.png").exists()


def test_the_clock_of_time_limits_does_not_count_the_loading_of_the_scorer(
    tmp_path: Path,
    clock: FakeClock,
    scorer_loads: list[int],
) -> None:
    result = trainer(tmp_path, clock, TimeLimit(2.95), max_steps=50).fit()
    assert (len(scorer_loads), result.stop_reason, result.steps) == (1, "max-time", 30)
    assert result.seconds == pytest.approx(3, abs=0.01)


def test_neither_the_picture_nor_the_scorer_changes_the_state_of_a_run(
    tmp_path: Path, clock: FakeClock, scorer_loads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(run: Run) -> NDArray[np.uint8]:
        torch.rand(3)  # as a generator with noise layers does
        return fixed_grid(run)

    monkeypatch.setattr(samples, "fixed_grid", noisy)
    trainer(tmp_path / "one", clock, SampleGrid(), max_steps=50).fit()
    monkeypatch.setattr(samples, "_FIRST_AFTER", math.inf)
    other = trainer(tmp_path / "other", clock, SampleGrid(), max_steps=15)
    other.fit()
    other.fit(max_steps=50)  # resumes at step 15, and loads the scorer there
    assert (tmp_path / "one/first.png").exists()
    assert len(scorer_loads) == 3
    assert_same_state(*(tmp_path / name / "checkpoints/last.safetensors" for name in ("one", "other")))


def test_splits_of_the_same_images_are_an_error_before_the_first_step(
    tmp_path: Path, register_data: RegisterData
) -> None:
    images = torch.arange(64 * 16 * 16).remainder(251).byte().view(64, 1, 16, 16)
    register_data("same", lambda settings, split: ImageSet(images, torch.arange(64) % 2, ("a", "b")))
    config, _ = resolve(preset="conv", assignments=[*SHORT, "data.source=same"], environment={})
    trainer = Trainer(config, run_dir=tmp_path)
    with pytest.raises(DataError, match="found the same images in the splits val and train"):
        trainer.fit()
    assert trainer.step == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_decoding_shows_a_bar_on_a_terminal_and_else_a_line_every_ten_seconds(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 1000, 6))
    monkeypatch.setattr("ganctl.training.data.decoding_progress.time.monotonic", lambda: float(next(now)))
    console = Console(stderr=True, force_terminal=terminal, width=100)
    items = list(show_progress([[0, 1], [2, 3], [4]], total=5, console=console))
    shown = capsys.readouterr()
    assert items == [0, 1, 2, 3, 4]
    assert shown.out == ""
    if terminal:
        assert "decoding" in shown.err
        assert "5/5" in shown.err
    else:
        assert shown.err == "decoded 4 of 5 images\n"
