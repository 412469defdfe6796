"""Trains one GAN: steps, evaluations, checkpoints, stops and resumes.

Read it from `Trainer.fit` down. `training/step/` has a single step, `loop/build.py` builds the parts of a run,
`training/callbacks/` has the callbacks, and `training/checkpoint/` the files of a run.

`Trainer.state_dict` holds everything that the rest of a run depends on: on a CPU, N steps without a stop and N steps
with any stops and resumes in between give the same bits. Every rank runs this loop; ranks communicate through `ranks`.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ganctl.files import add_path_to_errors
from ganctl.training.callbacks.base import FINISHED, HOOKS, Callback
from ganctl.training.callbacks.defaults import check_callbacks, with_defaults
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.checkpoint.run_dir import create_run_dir, next_run_dir, prepare_run_dir, write_settings
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.config.schema import Config
from ganctl.training.data.base import Split
from ganctl.training.device.timing import ResolvedDuration, ThroughputTimer
from ganctl.training.device.turns import end_turn, next_turn, take_turns
from ganctl.training.distributed.ranks import Ranks, preserve_random_states, random_states, set_random_states
from ganctl.training.images.source import GeneratorSource, Source, load_generator
from ganctl.training.loop.build import build_parts
from ganctl.training.loop.control import LoopControl, Result
from ganctl.training.loop.last_hooks import end_callbacks, report_error
from ganctl.training.models.transfer import TransferReport


class Trainer:
    """Trains one GAN into one folder: `Trainer(config, callbacks=[…]).fit()`."""

    def __init__(
        self,
        config: Config,
        *,
        run_dir: Path | str | None = None,
        callbacks: Sequence[Callback] = (),
        max_steps: int | None = None,
        ranks: Ranks | None = None,
        lock: RunLock | None = None,
    ) -> None:
        """Builds data, networks and state.

        Args:
            config: the settings, from `ganctl.configure` or `training.config.resolve.resolve`.
            run_dir: the run folder; None takes the next numbered one.
            callbacks: run in this order. A missing LRScheduler, Evaluate or Checkpoint is added, with the settings.
            max_steps: a step limit that changes no schedule; `fit` may override it.
            ranks: the group of training processes; None reads torchrun's environment variables.
            lock: the lock of `run_dir` with which this process has read it; None creates one.

        Raises:
            ConfigError, DataError: the settings do not fit the data, the ranks or this machine.
        """
        self.ranks = ranks or Ranks.join()
        self.parts = build_parts(config, self.ranks)
        self.config, self.device, self.class_names = self.parts.config, self.parts.device, self.parts.class_names
        callbacks, self._checkpoint = with_defaults(callbacks, self.config)
        check_callbacks(callbacks, self.ranks)
        self.batch_size, self._step, self._step_runner = self.parts.batch_size, self.parts.step, self.parts.step_runner
        self.epoch_images = self.parts.batches.per_epoch * self.batch_size
        self._numbered = run_dir is None
        self._fresh, self._started = True, False  # without restored state; whether `fit` has begun a run
        self._lock = lock or RunLock()
        self.run_dir = self.ranks.broadcast(Path(run_dir or next_run_dir(config)))
        self.timer = ThroughputTimer(batch_size=self.batch_size, device=self.device)
        self.duration = ResolvedDuration(config.train.duration)
        self.duration.resolve(self.epoch_images)
        self.generator = self._step.ema
        self.source = GeneratorSource(self.generator, self.class_names)
        self.callbacks = [callback for callback in callbacks if self.ranks.is_main or callback.every_rank]
        self._overrides = {hook: [each for each in self.callbacks if each.overrides(hook)] for hook in HOOKS}
        self._max_steps = max_steps
        self.step = self.images = 0
        self.metrics: dict[str, Any] = {}  # of the last evaluation
        self.init_report: TransferReport | None = None  # of a run that starts with the networks of another
        self.notes: tuple[str, ...] = ()
        self.setting_sources: Mapping[str, str] | None = None  # `section.key` → source; None if the caller knows none

    def fit(self, max_steps: int | None = None) -> Result:
        """Trains until the duration, a limit or a stop request; evaluates, saves, and returns the result.

        A further call continues from the checkpoint `last`, also after an error.

        Args:
            max_steps: a step limit for this call; None takes the one of the constructor.
        """
        self._limit = self.ranks.broadcast(max_steps or self._max_steps)
        self._control = LoopControl()
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.enter_context(take_turns(self._threads_in_turns()))
            self._enter_folder()
            stack.enter_context(add_path_to_errors(self.run_dir))  # disk errors of callbacks name the run folder
            if self._started:
                self.load_state_dict(self.ranks.run_on_main(lambda: read_checkpoint(self._checkpoint.last).state))
            for callback in self.callbacks:
                stack.callback(callback.close)  # in reverse order, also if one fails
            stack.push(self._report_exception)
            stack.callback(self.parts.batches.close)
            self._start_run()
            while not self._should_stop():
                self._train_step()
                evaluate = self._control.evaluation or self._duration_reached()
                if evaluate or self._control.checkpoint:
                    with self.timer.pause():
                        if evaluate:
                            self._evaluate()
                        self._save(fresh=evaluate)
            return self._finish()

    def _report_exception(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            report_error(self._overrides["on_exception"], self, error)

    def _enter_folder(self) -> None:
        """Creates and locks the run folder, after the build: a run that cannot be built leaves no folder."""

        def enter() -> Path:
            folder = create_run_dir(self.run_dir, self.config) if self._fresh and self._numbered else self.run_dir
            prepare_run_dir(folder, self._lock, fresh=self._fresh)
            return folder

        self.run_dir = self.ranks.run_on_main(enter)

    def _start_run(self) -> None:
        self.ranks.run_on_main(lambda: write_settings(self.run_dir, self.config, self.ranks.size, self.setting_sources))
        self._fresh, self._started = False, True
        with preserve_random_states(self.device):  # an uninterrupted run draws nothing here
            self._emit("on_start")
        self.notes = ()  # a further call of `fit` does not log them again
        # a new folder has no checkpoint yet: this run must end with its own evaluation
        if not self.ranks.broadcast(self._checkpoint.last.exists()):
            self.metrics = {}
        next_turn()
        self._control.agree(self.ranks, self.duration)  # on_start may have requested a stop
        self.timer.start()

    def _threads_in_turns(self) -> int:
        return 0 if self.device.type == "cuda" else torch.get_num_threads() * self.ranks.in_turns()

    def _train_step(self) -> None:
        lr_factor = math.prod(callback.on_schedule(self) for callback in self._overrides["on_schedule"])
        try:
            self._step_runner(
                self.parts.batches.batch_ref(self.step), step=self.step, progress=self.progress, lr_factor=lr_factor
            )
            out_of_memory = False
        except torch.OutOfMemoryError:
            out_of_memory = True
        if out_of_memory:  # after the except block, since the traceback keeps the tensors of the step
            _, memory = torch.cuda.mem_get_info(self.device)
            raise self.parts.out_of_memory(memory)
        self.step += 1
        self.images += self.batch_size
        self.timer.count()
        if self.ranks.is_main:
            self.duration.update(self.timer)
        self._emit("on_step")
        if self.step % self.config.log.every == 0:
            self._emit("on_log", self._step.read_stats())
        next_turn()  # of rank 0, for which the other ranks wait in `agree`
        self._control.agree(self.ranks, self.duration)

    def _should_stop(self) -> bool:
        if self._duration_reached():
            self.request_stop("completed")
        if self._limit and self.step >= self._limit:
            self.request_stop("max-steps")
        return bool(self._control.stop)

    def _duration_reached(self) -> bool:
        return self.duration.images is not None and self.images >= self.duration.images

    def _evaluate(self) -> None:
        self._step.check(self.step)
        position = {"step": self.step, "images": self.images}
        self.metrics = position | self.ranks.broadcast(self._measure(self.source, "val"))
        self._emit("on_evaluation", self.metrics)  # before the save, which includes the callbacks' state
        self._control.agree(self.ranks, self.duration)

    def _measure(self, source: Source, split: Split) -> dict[str, Any]:
        scores: dict[str, Any] = {"split": split}
        for callback in self._overrides["on_measure"]:
            scores |= callback.on_measure(self, source, split)
        return scores

    def _save(self, *, fresh: bool) -> None:
        """Saves the state. `fresh` means that `metrics` belong to this step and rank the checkpoint."""
        self._step.check(self.step)
        best = self.ranks.is_main and self._checkpoint.register(self.step, self.images, self.metrics, fresh=fresh)
        self._write(self.state_dict(), best=best, listed=True)

    def _write(self, state: Mapping[str, Any], *, best: bool, listed: bool) -> None:
        end_turn()
        if self.ranks.is_main:
            self._emit("on_checkpoint", self._checkpoint.write(state, best=best, listed=listed))
        self._control.evaluation = self._control.checkpoint = False
        self._control.agree(self.ranks, self.duration)

    def _finish(self) -> Result:
        """Evaluates and saves after the last step, where that is not done yet, and returns the scores to report."""
        seconds, images_per_second = self.timer.seconds, self.timer.images_per_second
        if self.metrics.get("step") != self.step:
            # A limit stopped the run between two evaluations. The state is taken before this extra evaluation, so that
            # a resumed run ends with the same bits as a run without the stop.
            self._step.check(self.step)
            state, best = self.state_dict(), False
            if self._control.evaluate_at_stop:
                self._evaluate()
                best = self.ranks.is_main and self._checkpoint.beats(self.metrics)
            self._write(state | {"look": self.metrics}, best=best, listed=False)
        metrics, reason, best_file = {"split": "val"} | self.metrics, self._control.stop, self._checkpoint.best
        if self.ranks.is_main and best_file.exists() and reason in FINISHED:
            metrics = self._score_best(self._checkpoint.newest_intact_best())
        end_callbacks(self._overrides["on_end"], self, reason, metrics)  # it may delete checkpoints
        existing_best, last = (path if path.exists() else None for path in (best_file, self._checkpoint.last))
        return Result(
            self.run_dir, self.step, self.images, seconds, images_per_second, existing_best, last, metrics, reason
        )  # fmt: skip

    def _score_best(self, path: Path) -> dict[str, Any]:
        """Returns the best checkpoint's scores on the test split, which selects nothing."""
        generator, saved = load_generator(path)
        source = GeneratorSource(generator.to(self.device), self.class_names)
        return {"step": saved.step, "images": saved.state["progress"]["images"], **self._measure(source, "test")}

    def _emit(self, hook: str, *arguments: Any) -> None:
        for callback in self._overrides[hook]:
            getattr(callback, hook)(self, *arguments)

    def describe(self) -> dict[str, Any]:
        """Returns the numbers of the planned run: parameters, images, batch size, steps."""
        steps = math.ceil(self.duration.images / self.batch_size) if self.duration.images else None
        init = {"init_from": self.init_report.describe()} if self.init_report else {}
        return self.parts.describe() | {"steps": steps, "first_step": self.step} | init

    # --- the callback interface, `callbacks.base.Run`, together with the attributes ---

    @property
    def progress(self) -> float:
        return self.duration.progress(self.images)

    def first_nonfinite(self) -> str | None:
        return self._step.first_nonfinite()

    def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
        self._control.request_stop(reason, evaluate=evaluate)

    def request_evaluation(self) -> None:
        self._control.evaluation = True

    def request_checkpoint(self) -> None:
        self._control.checkpoint = True

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of the run depends on, and a description. Every rank must call it."""
        return {
            "progress": {"step": self.step, "images": self.images, "batch_size": self.batch_size},
            "duration": self.duration.state_dict(),
            "networks": self._step.state_dict(),
            "torch_rng": self.ranks.all_gather_object(random_states(self.device)),
            "callbacks": {callback.key: callback.state_dict() for callback in self.callbacks},
            "metrics": dict(self.metrics),
            "config": self.config.model_dump(mode="json"),
            "data": self.parts.data_identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state of a run.

        Raises:
            ValueError: the state was saved with another batch size.
        """
        if (saved := state["progress"]["batch_size"]) != self.batch_size:
            raise ValueError(f"batch size: found {self.batch_size}, expected {saved}. Give --batch-size {saved}")
        self._step.load_state_dict(state["networks"])
        self._step_runner.invalidate()
        self.step, self.images = state["progress"]["step"], state["progress"]["images"]
        self.duration.load_state_dict(state["duration"])
        set_random_states(state["torch_rng"], self.ranks, self.device)
        for callback in self.callbacks:
            if callback.key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.key])
        self.metrics = dict(state["metrics"])
        self._fresh = False
