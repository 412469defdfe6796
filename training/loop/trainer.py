"""The loop: read it from `fit` down. A step is in `step.py`, the parts of a run in `assembly.py`, what watches it in
`callbacks/`, its files in `runs.py`.

Everything that the run's future depends on is in `Trainer.state_dict`: N steps in one go, and N steps with any stops
and resumes in between, give the same bits on a CPU. Every rank runs this same loop; what ranks must agree on passes
through `ranks`.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from ganctl.files import naming
from ganctl.training.callbacks.base import FINISHED, Callback, overriding
from ganctl.training.callbacks.defaults import check_callbacks, with_defaults
from ganctl.training.checkpoint.format import read_checkpoint
from ganctl.training.checkpoint.run_dir import begin_folder, make_numbered, next_run_folder, write_settings
from ganctl.training.checkpoint.run_lock import RunLock
from ganctl.training.config.schema import Config
from ganctl.training.data.base import Split
from ganctl.training.device.timing import ResolvedDuration, ThroughputTimer
from ganctl.training.distributed.ranks import Ranks, kept_random_states, random_states, set_random_states
from ganctl.training.images.source import GeneratorSource, Source, load_generator
from ganctl.training.loop.build import build_parts
from ganctl.training.loop.control import LoopControl, Result


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
            config: the settings, from `settings.configure` or `settings.resolve`.
            run_dir: the run's folder; None takes the next numbered one.
            callbacks: what watches the run. What the settings demand (LRScheduler, Evaluate, Checkpoint) is added
                where it is not among them.
            max_steps: stops early without changing what is done until then; `fit` may name another limit.
            ranks: the processes that train together; None asks torchrun's variables.
            lock: the lock of `run_dir`, by whoever has looked into the folder before.

        Raises:
            ConfigError, DataError: the settings do not fit the data, the ranks or this machine.
        """
        self.ranks = ranks or Ranks.join()
        callbacks, self._checkpoint = with_defaults(callbacks, config)
        check_callbacks(callbacks, self.ranks)
        self.parts = build_parts(config, self.ranks)
        self.config, self.device, self.class_names = self.parts.config, self.parts.device, self.parts.class_names
        self.batch_size, self._step, self._update = self.parts.batch_size, self.parts.step, self.parts.update
        self.epoch_images = self.parts.batches.per_epoch * self.batch_size
        self._numbered, self._fresh, self._began = run_dir is None, True, False
        self._lock = lock or RunLock()
        self.run_dir = self.ranks.broadcast(Path(run_dir or next_run_folder(config)))
        self.clock = ThroughputTimer(batch_size=self.batch_size, device=self.device)
        self.duration = ResolvedDuration(config.train.duration, epoch_images=self.epoch_images)
        self.generator = self._step.ema
        self.source = GeneratorSource(self.generator, self.class_names)
        self.callbacks = [callback for callback in callbacks if self.ranks.first or callback.every_rank]
        self._overridden = overriding(self.callbacks)
        self._max_steps = self._limit = max_steps
        self.step = self.images = 0
        self.metrics: dict[str, Any] = {}  # of the last evaluation
        self._requests = LoopControl()

    def fit(self, max_steps: int | None = None) -> Result:
        """Trains until the duration, a limit or a request to stop; evaluates, saves, and says how it went. Called again
        it goes on from `last`, also after an error."""
        self._limit = self.ranks.broadcast(max_steps or self._max_steps)
        self._requests = LoopControl()
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            self._enter_folder()
            if self._began:
                self.load_state_dict(self.ranks.on_first(lambda: read_checkpoint(self._checkpoint.last).state))
            for callback in self.callbacks:
                stack.callback(self._close, callback)  # in reverse order, whatever happens, also if one of them fails
            stack.callback(self.parts.batches.close)
            self._begin()
            while not self._should_stop():
                self._train_step()
                look = self._requests.evaluation or self._at_horizon()
                if look or self._requests.checkpoint:
                    with self.clock.pause():
                        if look:
                            self._evaluate()
                        self._save(fresh=look)
            return self._finish()

    def _enter_folder(self) -> None:
        """Makes and locks the run's folder; only now, so that what cannot be built leaves none."""

        def enter() -> Path:
            fresh = self._fresh and not self._began
            folder = make_numbered(self.run_dir, self.config) if fresh and self._numbered else self.run_dir
            begin_folder(folder, self._lock, fresh=fresh)
            return folder

        self.run_dir = self.ranks.on_first(enter)

    def _begin(self) -> None:
        self.ranks.on_first(lambda: write_settings(self.run_dir, self.config, self.ranks.size))
        self._began = True
        with kept_random_states(self.device):  # what is drawn at a start, a run without a stop has not drawn
            self._emit("on_start")
        # in another folder there is no checkpoint yet, so the run must end with an evaluation of its own
        if not self.ranks.broadcast(self._checkpoint.last.exists()):
            self.metrics = {}
        self._requests.agree(self.ranks, self.duration)  # a callback may have asked for the end already
        self.clock.start()

    def _train_step(self) -> None:
        rate = math.prod(callback.on_schedule(self) for callback in self._overridden["on_schedule"])
        self._update(self.parts.batches.batch_ref(self.step), step=self.step, progress=self.progress, rate=rate)
        self.step += 1
        self.images += self.batch_size
        self.clock.count()
        if self.ranks.first:
            self.duration.update(self.clock)
        self._emit("on_step")
        if self.step % self.config.log.every == 0:
            self._emit("on_log", self._step.read_stats())
        self._requests.agree(self.ranks, self.duration)

    def _should_stop(self) -> bool:
        if self._at_horizon():
            self.request_stop("completed")
        if self._limit and self.step >= self._limit:
            self.request_stop("max-steps")
        return bool(self._requests.stop)

    def _at_horizon(self) -> bool:
        return self.duration.images is not None and self.images >= self.duration.images

    def _evaluate(self) -> None:
        self._step.check(self.step)
        where = {"step": self.step, "images": self.images}
        self.metrics = where | self.ranks.broadcast(self._measure(self.source, "val"))
        self._emit("on_evaluation", self.metrics)  # before the save: what it changes in callbacks is saved, too
        self._requests.agree(self.ranks, self.duration)

    def _measure(self, source: Source, split: Split) -> dict[str, Any]:
        scores: dict[str, Any] = {"split": split}
        for callback in self._overridden["on_measure"]:
            scores |= callback.on_measure(self, source, split)
        return scores

    def _save(self, *, fresh: bool) -> None:
        """Saves what the run has come to; with `fresh` scores the checkpoint is ranked by them."""
        self._step.check(self.step)
        best = self.ranks.first and self._checkpoint.register(self.step, self.images, self.metrics, fresh=fresh)
        self._write(self.state_dict(), best=best, listed=True)

    def _write(self, state: Mapping[str, Any], *, best: bool, listed: bool) -> None:
        if self.ranks.first:
            self._emit("on_checkpoint", self._checkpoint.write(state, best=best, listed=listed))
        self._requests.evaluation = self._requests.checkpoint = False
        self._requests.agree(self.ranks, self.duration)

    def _finish(self) -> Result:
        """The closing evaluation and save, where the last step has not had them, and the scores to report."""
        seconds, rate = self.clock.seconds, self.clock.images_per_second
        if self.metrics.get("step") != self.step:
            # A limit stopped the run off its schedule. What continues it later must not know that anyone looked here,
            # or it would not end as a run without the stop: the state is taken before the look.
            self._step.check(self.step)
            state, best = self.state_dict(), False
            if self._requests.evaluate_at_stop:
                self._evaluate()
                best = self.ranks.first and self._checkpoint.beats(self.metrics)
            self._write(state | {"look": self.metrics}, best=best, listed=False)
        metrics, reason, best_file = {"split": "val"} | self.metrics, self._requests.stop, self._checkpoint.best
        if self.ranks.first and best_file.exists() and reason in FINISHED:
            metrics = self._score_best(self._checkpoint.newest_intact_best())
        self._emit("on_end", reason, metrics)  # after it some files may be gone
        kept, last = (path if path.exists() else None for path in (best_file, self._checkpoint.last))
        return Result(self.run_dir, self.step, self.images, seconds, rate, kept, last, metrics, reason)

    def _score_best(self, path: Path) -> dict[str, Any]:
        """The best checkpoint's scores on the test set, by which nothing was chosen."""
        generator, saved = load_generator(path)
        source = GeneratorSource(generator.to(self.device), self.class_names)
        return {"step": saved.step, "images": saved.state["progress"]["images"], **self._measure(source, "test")}

    def _emit(self, hook: str, *arguments: Any) -> None:
        with naming(self.run_dir):  # where callbacks write, TensorBoard's writer among them
            for callback in self._overridden[hook]:
                getattr(callback, hook)(self, *arguments)

    def _close(self, callback: Callback) -> None:
        with naming(self.run_dir):
            callback.close()

    def describe(self) -> dict[str, Any]:
        """What is going to be trained, in numbers."""
        steps = -(-self.duration.images // self.batch_size) if self.duration.images else None
        return self.parts.describe(self.ranks) | {"steps": steps, "first_step": self.step}

    def estimate_memory(self) -> dict[str, int]:
        """An estimate of one rank's memory, in bytes; it runs both networks once."""
        return self.parts.estimate_memory(self.ranks)

    # --- what callbacks see (with the attributes of `callback.Run`) and may ask for ---

    @property
    def progress(self) -> float:
        return self.duration.progress(self.images)

    @property
    def duration_images(self) -> int | None:
        return self.duration.images

    def broken(self) -> str | None:
        return self._step.broken()

    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        return self.source.draw(z, label)

    def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
        self._requests.request_stop(reason, evaluate=evaluate)

    def request_evaluation(self) -> None:
        self._requests.evaluation = True

    def request_checkpoint(self) -> None:
        self._requests.checkpoint = True

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future of the run depends on, and what describes it. Every rank must call it."""
        return {
            "progress": {"step": self.step, "images": self.images, "batch_size": self.batch_size},
            "duration": self.duration.state_dict(),
            "networks": self._step.state_dict(),
            "torch_rng": self.ranks.gather(random_states(self.device)),
            "callbacks": {callback.key: callback.state_dict() for callback in self.callbacks},
            "metrics": dict(self.metrics),
            "config": self.config.model_dump(mode="json"),
            "data": self.parts.data,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a run up where `state` was taken."""
        if (before := state["progress"]["batch_size"]) != self.batch_size:
            raise ValueError(f"the run has a batch of {before}, here it would be {self.batch_size}; give --batch-size")
        self._step.load_state_dict(state["networks"])
        self._update.invalidate()
        self.step, self.images = state["progress"]["step"], state["progress"]["images"]
        self.duration.load_state_dict(state["duration"])
        set_random_states(state["torch_rng"], self.ranks, self.device)
        for callback in self.callbacks:
            if callback.key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.key])
        self.metrics = dict(state["metrics"])
        self._fresh = False

    def load_networks(self, state: Mapping[str, Any]) -> None:
        """Takes the networks of another run's state as this run's beginning."""
        self._step.load_networks(state["networks"])
