"""The callback protocol: its hooks, the order of their calls, and the requirements on shipped callbacks."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ganctl.training import callbacks as shipped
from ganctl.training.callbacks import TimeLimit
from ganctl.training.callbacks.base import HOOKS, Callback, Run
from ganctl.training.callbacks.defaults import check_callbacks
from ganctl.training.checkpoint.format import read_checkpoint, write_checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.data.base import Split
from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.errors import ConfigError, TrainingError
from ganctl.training.images.source import Source
from ganctl.training.loop.trainer import Trainer
from tests.conftest import SMALL

SHIPPED = [getattr(shipped, name) for name in shipped.__all__ if inspect.isclass(getattr(shipped, name))]


def make(kind: type[Callback]) -> Callback:
    return TimeLimit(3600) if kind is TimeLimit else kind()


def trainer_with(run_dir: Path, *callbacks: Callback, max_steps: int = 12, extra: tuple[str, ...] = ()) -> Trainer:
    config, _ = resolve(assignments=[*SMALL, *extra], environment={})
    return Trainer(config, run_dir=run_dir, callbacks=callbacks, max_steps=max_steps)


class Recorder(Callback):
    """Records each hook call with the step and the main arguments."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.key = name
        self._events = events

    def _record(self, event: str) -> None:
        self._events.append(f"{self.key}: {event}")

    def on_start(self, run: Run) -> None:
        self._record(f"start at {run.step}")

    def on_schedule(self, run: Run) -> float:
        self._record(f"schedule of step {run.step + 1}")
        return 1.0

    def on_step(self, run: Run) -> None:
        self._record(f"step {run.step}")

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._record(f"log {run.step}")

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        self._record(f"measure {split}")
        return {f"of {self.key}": 1.0}

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._record(f"evaluation {run.step}, {'of b' in scores}")

    def on_checkpoint(self, run: Run, path: Path) -> None:
        self._record(f"checkpoint {run.step}, {read_checkpoint(path).step}")

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        self._record(f"end by {reason}, {scores['split']}")

    def close(self) -> None:
        self._record("close")


def both(*events: str) -> list[str]:
    return [f"{name}: {event}" for event in events for name in "ab"]


def test_the_hooks_of_all_callbacks_are_called_in_a_fixed_order(tmp_path: Path) -> None:
    events: list[str] = []
    intervals = ("train.duration=96 images", "evaluation.every=64 images", "checkpoint.every=32 images")
    trainer_with(
        tmp_path, Recorder("a", events), Recorder("b", events), extra=("log.every=2", "train.batch_size=32", *intervals)
    ).fit()
    assert events == [
        *both("start at 0"),
        *both("schedule of step 1"), *both("step 1"), *both("checkpoint 1, 1"),
        *both("schedule of step 2"), *both("step 2"), *both("log 2"),
        *both("measure val"), *both("evaluation 2, True"), *both("checkpoint 2, 2"),
        *both("schedule of step 3"), *both("step 3"),
        *both("measure val"), *both("evaluation 3, True"), *both("checkpoint 3, 3"),
        *both("measure test"), *both("end by completed, test"),
        "b: close", "a: close",
    ]  # fmt: skip


class FailingCallback(Callback):
    """Raises an error in one hook, and with `close_fails` also in `close`."""

    def __init__(self, hook: str, *, close_fails: bool = False) -> None:
        self._hook, self._close_fails = hook, close_fails

    def _fail_in(self, hook: str) -> None:
        if hook == self._hook:
            raise RuntimeError(f"fails in {hook}")

    def on_start(self, run: Run) -> None:
        self._fail_in("on_start")

    def on_step(self, run: Run) -> None:
        self._fail_in("on_step")

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._fail_in("on_evaluation")

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        self._fail_in("on_end")

    def close(self) -> None:
        if self._close_fails:
            raise OSError("fails in close")


@pytest.mark.parametrize("hook", ["on_start", "on_step", "on_evaluation", "on_end"])
def test_an_error_in_a_hook_is_raised_and_all_callbacks_are_closed_in_reverse_order(hook: str, tmp_path: Path) -> None:
    events: list[str] = []
    trainer = trainer_with(tmp_path, Recorder("a", events), FailingCallback(hook), Recorder("b", events), max_steps=2)
    with pytest.raises(RuntimeError, match=f"fails in {hook}"):
        trainer.fit()
    assert events[-2:] == ["b: close", "a: close"]


class Witness(Callback):
    """Records the error that ends a run."""

    error: Exception | None = None

    def on_exception(self, run: Run, error: Exception) -> None:
        self.error = error


def test_callbacks_get_the_error_that_ends_a_run(tmp_path: Path) -> None:
    witness = Witness()
    with pytest.raises(RuntimeError, match="fails in on_step") as raised:
        trainer_with(tmp_path, witness, FailingCallback("on_step")).fit()
    assert witness.error is raised.value


def test_an_error_in_close_neither_skips_other_callbacks_nor_hides_an_earlier_error(tmp_path: Path) -> None:
    events: list[str] = []
    failing = FailingCallback("on_step", close_fails=True)
    with pytest.raises(OSError, match="fails in close") as raised:
        trainer_with(tmp_path, Recorder("a", events), failing, Recorder("b", events)).fit()
    assert events[-2:] == ["b: close", "a: close"]
    assert "fails in on_step" in str(raised.value.__context__)


def test_a_misspelled_hook_is_an_error_when_the_class_is_defined() -> None:
    with pytest.raises(TypeError, match=r"Misspelled: .*\bon_evalution\b.*\bon_start, on_schedule, on_step\b"):

        class Misspelled(Callback):
            def on_evalution(self) -> None: ...


def test_two_callbacks_with_the_same_key_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"callbacks: .*FailingCallback, FailingCallback.*`key`"):
        check_callbacks([FailingCallback("on_start"), FailingCallback("on_step")], SINGLE_RANK)


@pytest.mark.parametrize("kind", SHIPPED)
def test_shipped_callbacks_override_hooks_with_the_protocols_signatures(kind: type[Callback]) -> None:
    assert kind.__doc__
    for hook in (*HOOKS, "close", "state_dict", "load_state_dict"):
        names = list(inspect.signature(getattr(kind, hook)).parameters)
        assert names == list(inspect.signature(getattr(Callback, hook)).parameters)


def test_shipped_callbacks_have_unique_keys() -> None:
    keys = [kind.key for kind in SHIPPED]
    assert len(set(keys)) == len(keys) == 13


@pytest.mark.parametrize("kind", SHIPPED)
def test_shipped_callbacks_may_be_closed_at_any_time_and_twice(kind: type[Callback], tmp_path: Path) -> None:
    callback = make(kind)
    callback.close()
    trainer_with(tmp_path, callback, max_steps=1).fit()
    callback.close()


@pytest.mark.parametrize("kind", SHIPPED)
def test_the_state_of_shipped_callbacks_survives_a_checkpoint(kind: type[Callback], tmp_path: Path) -> None:
    callback, other = make(kind), make(kind)
    trainer_with(tmp_path / "run", callback).fit()
    path = tmp_path / "state.safetensors"
    write_checkpoint(path, {"progress": {"step": 12}, "metrics": {}, "state": callback.state_dict()})
    other.load_state_dict(read_checkpoint(path).state["state"])
    assert json.dumps(other.state_dict()) == json.dumps(callback.state_dict())


class Requester(Callback):
    """Requests a checkpoint, an evaluation and a stop."""

    def on_step(self, run: Run) -> None:
        if run.step == 4:
            run.request_checkpoint()
        if run.step == 6:
            run.request_evaluation()
        if run.step == 8:
            run.request_stop("enough")
            run.request_stop("too late")


def test_callbacks_may_request_checkpoints_evaluations_and_a_stop(tmp_path: Path) -> None:
    events: list[str] = []
    result = trainer_with(tmp_path, Requester(), Recorder("r", events)).fit()
    assert result.stop_reason == "enough"
    calls = [event.removeprefix("r: ") for event in events if not event.startswith(("r: step", "r: sched", "r: meas"))]
    assert calls == [
        "start at 0", "checkpoint 4, 4", "evaluation 6, False", "checkpoint 6, 6", "evaluation 8, False",
        "checkpoint 8, 8", "end by enough, val", "close",
    ]  # fmt: skip


class StopsAt(Callback):
    """Requests a stop in one hook."""

    def __init__(self, hook: str) -> None:
        self._hook = hook

    def on_start(self, run: Run) -> None:
        if self._hook == "on_start":
            run.request_stop("at once")

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        if self._hook == "on_evaluation":
            run.request_stop("seen enough")

    def on_checkpoint(self, run: Run, path: Path) -> None:
        if self._hook == "on_checkpoint":
            run.request_stop("saved enough")


@pytest.mark.parametrize(("hook", "steps"), [("on_start", 0), ("on_evaluation", 2), ("on_checkpoint", 2)])
def test_a_stop_may_be_requested_in_any_hook(hook: str, steps: int, tmp_path: Path) -> None:
    extra = ("train.batch_size=32", "evaluation.every=64 images")
    result = trainer_with(tmp_path, StopsAt(hook), extra=extra).fit()
    assert result.steps == steps
    assert result.best is not None


def test_divergence_is_an_error_that_names_the_tensor_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 7:
                assert isinstance(run, Trainer)
                next(run.parts.step.generator.parameters()).data[0] = float("nan")

    extra = ("train.batch_size=32", "checkpoint.every=160 images")
    with pytest.raises(TrainingError, match=r"\bloss_d\b.*\bnan\b") as raised:
        trainer_with(tmp_path, Poison(), shipped.NonFinite(), extra=extra).fit()
    assert re.search(r"\bstep 10\b", str(raised.value))
    assert re.search(r"\bgenerator\.\w+", str(raised.value))
    assert read_checkpoint(tmp_path / "checkpoints/last.safetensors").step == 5
