"""The built-in callbacks: the files that they write, and the conditions on which they stop a run."""

import gzip
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image, ImageSequence
from rich.console import Console

from ganctl.training.callbacks import (
    EarlyStopping,
    LRScheduler,
    Profiler,
    Progress,
    SampleGrid,
    SignalHandler,
    StatsLog,
    TimeLimit,
)
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.checkpoints import Checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import CheckpointSettings, EarlyStoppingSettings, OptimizerSettings
from ganctl.training.evaluation.measure import MEASURE
from ganctl.training.loop.control import Result
from ganctl.training.loop.session import Session
from ganctl.training.loop.trainer import Trainer
from tests.conftest import SMALL


def run_with(tmp_path: Path, *callbacks: Callback, max_steps: int | None = 12, extra: tuple[str, ...] = ()) -> Result:
    config, _ = resolve(assignments=[*SMALL, *extra], environment={})
    return Trainer(config, run_dir=tmp_path, callbacks=callbacks, max_steps=max_steps).fit()


def test_a_run_folder_holds_settings_environment_scores_images_and_logs(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    Session(assignments=[*SMALL, "log.tensorboard=true"], run_dir=run_dir).build(max_steps=12).fit()
    names = {path.name for path in run_dir.iterdir()}
    assert {
        "config.toml",
        "environment.json",
        "stats.jsonl",
        "samples",
        "timelapse.gif",
        "log.txt",
        "checkpoints",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 10
    assert rows[0]["loss_d"] > 0
    assert rows[1]["evaluation"]["fd"] > 0
    with Image.open(run_dir / "samples/00000012.png") as picture:
        assert picture.size == (10 * 28 * 2, 8 * 28 * 2)
    assert json.loads((run_dir / "environment.json").read_text())["versions"]["torch"]


def test_the_timelapse_has_one_frame_for_each_evaluation(tmp_path: Path) -> None:
    run_with(tmp_path, SampleGrid(), extra=("train.batch_size=32", "evaluation.every=128 images"))
    with Image.open(tmp_path / "timelapse.gif") as animation:
        assert len(list(ImageSequence.Iterator(animation))) == len(list((tmp_path / "samples").glob("*.png"))) == 3


def test_the_profiler_writes_a_trace_of_its_steps(tmp_path: Path) -> None:
    run_with(tmp_path, Profiler(steps=2), max_steps=20)
    (path,) = (tmp_path / "profile").glob("*.pt.trace.json.gz")
    trace = json.loads(gzip.decompress(path.read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert any("conv" in str(name) for name in names)
    assert "ProfilerStep#15" in names


class Position:
    """Stand-in for a run, with the attributes that a schedule reads."""

    def __init__(self, images: int, progress: float) -> None:
        self.images, self.progress, self.batch_size = images, progress, 10


def rate(schedule: LRScheduler, *, images: int = 10_000, progress: float = 0.0) -> float:
    return schedule.on_schedule(Position(images, progress))  # type: ignore[arg-type]


def scheduler(schedule: Literal["linear", "cosine"], **settings: Any) -> LRScheduler:
    full = {"decay_start": 0.0, "min_lr_ratio": 0.0} | settings
    return LRScheduler(OptimizerSettings(schedule=schedule, **full))


def test_learning_rates_rise_in_the_warmup_and_fall_by_the_schedule() -> None:
    warm = scheduler("linear", decay_start=0.5, warmup=100)
    assert [rate(warm, images=images) for images in (0, 40, 90, 5000)] == [0.1, 0.5, 1.0, 1.0]
    assert [rate(warm, progress=progress) for progress in (0.5, 0.75, 1.0)] == [1.0, 0.5, 0.0]
    cosine = scheduler("cosine")
    assert [rate(cosine, progress=p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    partly = scheduler("linear", min_lr_ratio=0.2)
    assert [rate(partly, progress=p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.6, 0.2])
    early = scheduler("linear", min_lr_ratio=0.2, decay_start=0.1, decay_end=0.5)
    assert [rate(early, progress=p) for p in (0.1, 0.3, 0.5, 1)] == pytest.approx([1, 0.6, 0.2, 0.2])
    at_once = scheduler("cosine", min_lr_ratio=0.2, decay_start=0.5, decay_end=0.5)
    assert [rate(at_once, progress=p) for p in (0.5, 0.6)] == pytest.approx([1, 0.2])
    own = LRScheduler(OptimizerSettings(warmup=100), schedule=lambda progress: 2 - progress)
    assert rate(own, images=40, progress=0.5) == 0.75


def test_the_learning_rate_of_each_step_is_the_setting_times_the_schedule(tmp_path: Path) -> None:
    rates = ("optimizer.lr=0.5e-3", "optimizer.lr_discriminator=1e-3", "optimizer.schedule=linear")
    decay = ("optimizer.decay_start=0", "optimizer.decay_end=1", "optimizer.min_lr_ratio=0")
    length = ("train.batch_size=64", "train.duration=640 images", "log.every=1")
    run_with(tmp_path, StatsLog(), max_steps=4, extra=(*rates, *decay, *length))
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows if "lr" in row] == pytest.approx([0.5e-3, 0.45e-3, 0.4e-3, 0.35e-3])


class StopRequests:
    """Stand-in for a run: records the requests to stop."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def request_stop(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize(
    ("scores", "stops_at"),
    [([5, 4, 4, 4], 4), ([5, 4, 3.95, 3.9], 4), ([5, 6, 4, 5, 5.5], 5), ([5, 4, 3, 2], None)],
)
def test_early_stopping_waits_for_its_patience(scores: list[float], stops_at: int | None) -> None:
    early_stopping = EarlyStopping(EarlyStoppingSettings(patience=2, min_delta=0.2))
    run = StopRequests()
    for n, score in enumerate(scores, start=1):
        early_stopping.on_evaluation(run, {"fd": score})  # type: ignore[arg-type]
        assert run.reasons == (["early-stopping"] if n == stops_at else [])


def test_early_stopping_continues_counting_after_a_resume() -> None:
    first, second = EarlyStopping(EarlyStoppingSettings(patience=2)), EarlyStopping(EarlyStoppingSettings(patience=2))
    for score in (5.0, 6.0):
        first.on_evaluation(None, {"fd": score})  # type: ignore[arg-type]
    second.load_state_dict(first.state_dict())
    run = StopRequests()
    second.on_evaluation(run, {"fd": 5.5})  # type: ignore[arg-type]
    assert run.reasons == ["early-stopping"]


@pytest.mark.parametrize("measure", [{}, {"measure": MEASURE - 1}], ids=["before measures had numbers", "measure 1"])
def test_early_stopping_forgets_scores_of_another_measure_when_resumed(measure: dict[str, int]) -> None:
    first, second = EarlyStopping(EarlyStoppingSettings(patience=2)), EarlyStopping(EarlyStoppingSettings(patience=2))
    for score in (0.5, 0.6):
        first.on_evaluation(None, {"fd": score})  # type: ignore[arg-type]
    state = {name: value for name, value in first.state_dict().items() if name != "measure"}
    second.load_state_dict(state | measure)
    run = StopRequests()
    for score in (50.0, 60.0, 40.0, 41.0):
        second.on_evaluation(run, {"fd": score})  # type: ignore[arg-type]
    assert run.reasons == []
    second.on_evaluation(run, {"fd": 42.0})  # type: ignore[arg-type]
    assert run.reasons == ["early-stopping"]


def test_the_ranking_of_checkpoints_is_kept_when_resumed() -> None:
    first, second = (Checkpoint(CheckpointSettings(save_top_k=2)) for _ in range(2))
    for step, score in enumerate((5.0, 4.0), start=1):
        first.register(step, step, {"fd": score}, fresh=True)
    second.load_state_dict(first.state_dict())
    assert not second.register(3, 3, {"fd": 4.5}, fresh=True)
    assert [step for _, step, _ in second.ranking] == [2, 3]


@pytest.mark.parametrize("measure", [{}, {"measure": MEASURE - 1}], ids=["before measures had numbers", "measure 1"])
def test_checkpoints_of_another_measure_rank_below_new_ones_when_resumed(
    measure: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (Checkpoint(CheckpointSettings(save_top_k=2)) for _ in range(2))
    for step, score in enumerate((0.4, 0.5), start=1):
        first.register(step, step, {"fd": score}, fresh=True)
    state = {name: value for name, value in first.state_dict().items() if name != "measure"}
    second.load_state_dict(state | measure)
    assert "measure" in caplog.text
    assert [step for _, step, _ in second.ranking] == [1, 2], "the best one stays best until there is a new score"
    assert second.beats({"fd": 50.0})
    assert second.register(3, 3, {"fd": 50.0}, fresh=True)
    assert second.register(4, 4, {"fd": 40.0}, fresh=True)
    assert [(score, step) for score, step, _ in second.ranking] == [(40.0, 4), (50.0, 3)]


@pytest.mark.parametrize(("monitor", "scores", "stops_at"), [("fd", [9, 5, 4], 2), ("label_accuracy", [0.2, 0.95], 2)])
def test_early_stopping_stops_at_the_stopping_threshold(monitor: str, scores: list[float], stops_at: int) -> None:
    early_stopping = EarlyStopping(
        EarlyStoppingSettings(monitor=monitor, patience=0, stopping_threshold=5.0 if monitor == "fd" else 0.9)
    )
    run = StopRequests()
    for n, score in enumerate(scores, start=1):
        early_stopping.on_evaluation(run, {monitor: score})  # type: ignore[arg-type]
        assert bool(run.reasons) == (n >= stops_at)
    assert run.reasons[0] == "goal"


def test_a_time_limit_stops_after_the_step_that_passes_it(tmp_path: Path) -> None:
    result = run_with(tmp_path, TimeLimit(0.0), max_steps=50)
    assert (result.stop_reason, result.steps) == ("max-time", 1)


class Kill(Callback):
    def on_step(self, run: Run) -> None:
        if run.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = run_with(tmp_path, Kill(), SignalHandler(), max_steps=50)
    assert result.stop_reason == "SIGTERM"
    assert result.steps == 5
    assert result.last is not None
    assert result.last.exists()
    assert result.best is None  # the run ends without an evaluation
    assert signal.getsignal(signal.SIGTERM) is before


def test_progress_is_plain_lines_without_a_terminal(tmp_path: Path) -> None:
    text = io.StringIO()
    run_with(tmp_path, Progress(Console(file=text, width=120)))
    assert "images/s" in text.getvalue()
    assert "× the floor" in text.getvalue()
    assert "\x1b" not in text.getvalue()
    assert re.search(r"\bstep 12\b.*\bmax-steps$", (tmp_path / "log.txt").read_text(), re.MULTILINE)


def test_progress_is_a_bar_with_rate_losses_and_time_left_on_a_terminal(tmp_path: Path) -> None:
    outputs = {}
    always, never = 1e-9, 1e9  # seconds between two updates
    for refresh in (always, never):
        text = io.StringIO()
        console = Console(file=text, width=140, force_terminal=True)
        run_with(tmp_path / str(refresh), Progress(console), extra=("log.every=2", f"log.refresh={refresh}"))
        outputs[refresh] = text.getvalue()
    for expected in ("━", "/s", "  D ", "  G "):
        assert expected in outputs[always]
    assert re.search(r"\d+:\d\d", outputs[always]), "remaining time"
    assert outputs[always].count("━━") > 5 > outputs[never].count("images  ")


def test_a_second_signal_ends_the_process_at_once_but_a_copy_of_the_first_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scheduler signals every process, and torchrun forwards the signal: a process receives the same signal twice."""
    now, ended = 100.0, []
    monkeypatch.setattr("ganctl.training.callbacks.stopping.time.monotonic", lambda: now)
    callback = SignalHandler()
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        callback.on_start(None)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
        now += 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended == []
        now += 2
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended == [signal.SIGTERM], "the handler from before the run was not called"
        callback.close()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_stopping_threshold_does_not_depend_on_min_delta() -> None:
    callback, run = (
        EarlyStopping(EarlyStoppingSettings(patience=0, min_delta=0.2, stopping_threshold=4.9)),
        StopRequests(),
    )
    callback.on_evaluation(run, {"fd": 5.0})  # type: ignore[arg-type]
    assert not run.reasons
    callback.on_evaluation(run, {"fd": 4.85})  # type: ignore[arg-type]
    resumed = EarlyStopping(EarlyStoppingSettings(patience=0, min_delta=0.2, stopping_threshold=4.9))
    resumed.load_state_dict(callback.state_dict())
    resumed.on_start(run)  # type: ignore[arg-type]
    assert run.reasons == ["goal", "goal"]


def test_a_run_that_continues_in_another_folder_logs_each_step_once(tmp_path: Path) -> None:
    Session(assignments=[*SMALL, "log.every=2"], run_dir=tmp_path / "a").build(max_steps=6).fit()
    last = tmp_path / "a/checkpoints/last.safetensors"
    Session(run_dir=tmp_path / "b", resume=str(last)).build(max_steps=9).fit()
    Session(run_dir=tmp_path / "b", resume="auto").build(max_steps=12).fit()
    rows = [json.loads(line) for line in (tmp_path / "b/stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss_d" in row] == [8, 10, 12]
