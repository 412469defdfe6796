"""The loop: read it from `fit` down. A step is in `step.py`, what watches it in `callbacks/`, its files in `runs.py`.

Everything that the run's future depends on is in `Trainer.state_dict`: N steps in one go, and N steps with any stops
and resumes in between, give the same bits on a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.batches import Batches
from training.callback import HOOKS, Callback
from training.checkpoint import Checkpoint, read_checkpoint
from training.config import Config
from training.data import load_split
from training.errors import CheckpointError, ConfigError, TrainingError
from training.evaluation.evaluator import MONITORS, Evaluator
from training.models import ImageShape, build_discriminator, build_generator
from training.pace import Pace
from training.runs import CheckpointStore
from training.sources import GeneratorSource
from training.step import Step

FINISHED = ("horizon", "early-stopping")  # reasons after which a run is complete, not merely stopped


@dataclass(frozen=True)
class Result:
    """How a run ended. `metrics` are the scores on the split that `metrics["split"]` names: of the best checkpoint on
    the test set where the run is complete, of the last step on the validation split where a limit stopped it."""

    run_dir: Path
    steps: int
    images: int
    seconds: float
    images_per_second: float
    best: Path | None
    last: Path
    metrics: dict[str, Any]
    stopped_by: str


def choose_device(name: str) -> torch.device:
    """The device that `train.device` means; auto takes CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            ["train.device = 'cuda': torch sees no CUDA device; use 'cpu' or 'auto', or see 'ganctl doctor'."]
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Trainer:
    """Trains one GAN into one folder: `Trainer(config, run_dir=…).fit()`."""

    def __init__(
        self,
        config: Config,
        *,
        run_dir: Path,
        callbacks: Sequence[Callback] = (),
        max_steps: int | None = None,
    ) -> None:
        """Builds data, networks and state. `max_steps` stops early without changing what is done until then.

        Raises:
            ConfigError, DataError: the settings do not fit the data or this machine.
        """
        keys = [callback.key for callback in callbacks]
        if len(set(keys)) < len(keys):
            raise ConfigError([f"callbacks: two of {', '.join(keys)} share a key; give one of them another `key`."])
        for setting in ("checkpoint.monitor", "early_stopping.monitor"):
            if (name := config.flat()[setting]) not in MONITORS:
                raise ConfigError([f"{setting} = {name!r}: no such score; there are {', '.join(MONITORS)}."])
            if name == "label_accuracy" and not config.model.conditional:
                raise ConfigError([f"{setting} = {name!r}: an unconditional generator has no such score; use 'fd'."])
        self.config, self.run_dir, self.callbacks = config, run_dir, callbacks
        self._max_steps = max_steps
        self.device = choose_device(config.train.device)
        data = load_split(config.data, "train")
        self.class_names, self.shape = data.class_names, ImageShape(*data.shape)
        automatic = 256 if self.device.type == "cuda" else 64
        self.batch_size = automatic if config.train.batch_size == "auto" else config.train.batch_size
        if self.batch_size > len(data):
            raise ConfigError([f"train.batch_size = {self.batch_size}: there are only {len(data)} training images."])
        self._batches = Batches(data, batch_size=self.batch_size, seed=config.train.seed, device=self.device)
        self.epoch_images = self._batches.per_epoch * self.batch_size
        self.pace = Pace(
            horizon=config.train.horizon,
            evaluation=config.evaluation.every,
            batch_size=self.batch_size,
            epoch_images=self.epoch_images,
            device=self.device,
        )
        torch.manual_seed(config.train.seed)
        generator = build_generator(config.model, self.shape, len(data.class_names)).to(self.device)
        discriminator = build_discriminator(config.model, self.shape, len(data.class_names)).to(self.device)
        self._step = Step(config, generator, discriminator, self.device)
        self._store = CheckpointStore(run_dir, config.checkpoint)
        self._source = GeneratorSource(self._step.ema, self.class_names)
        self._evaluator: Evaluator | None = None
        self._overridden = {
            hook: [callback for callback in callbacks if getattr(type(callback), hook) is not getattr(Callback, hook)]
            for hook in HOOKS
        }
        self.step = self.images = 0
        self.metrics: dict[str, Any] = {}
        self._stop_reason, self._evaluate_at_stop = "", True
        self._wants_evaluation = self._wants_checkpoint = False

    def fit(self) -> Result:
        """Trains until the horizon, a limit or a request to stop; evaluates, saves, and says how it went."""
        try:
            self._emit("on_start")
            self.pace.start()
            while not self._should_stop():
                images, labels = self._batches.at(self.step)
                self._step(images, labels, step=self.step, progress=self.pace.progress(self.images))
                self.step += 1
                self.images += self.batch_size
                self.pace.count()
                self._emit("on_step")
                if self.step % self.config.log.every == 0:
                    self._emit("on_log", self._step.read_stats())
                finished = self.pace.at_horizon(self.images)
                if finished or self._wants_evaluation or self.pace.evaluation_due(self.images):
                    self._evaluate_and_save()
                elif self._wants_checkpoint:
                    with self.pace.pause():
                        self._check_finite()
                        self._save()
            return self._finish()
        finally:
            for callback in reversed(self.callbacks):
                callback.close()

    def _should_stop(self) -> bool:
        if self.pace.at_horizon(self.images):
            self.request_stop("horizon")
        if self._max_steps is not None and self.step >= self._max_steps:
            self.request_stop("max-steps")
        return bool(self._stop_reason)

    def _evaluate_and_save(self) -> None:
        with self.pace.pause():
            self._check_finite()
            self.metrics = self._evaluate()
            score = self.metrics[self.config.checkpoint.monitor]
            best = self._store.is_best(score)
            self._store.rank(self.step, score)
            self._emit("on_evaluation", self.metrics)  # before the save: what it changes in callbacks is saved, too
            self._save(best=best)

    def _check_finite(self) -> None:
        """Nothing that is not a number is scored or saved: the checkpoint before stays the last one."""
        broken = self._step.broken()
        if broken:
            raise TrainingError(
                f"{broken} is no longer finite at step {self.step}; the checkpoint before stays the last one. Lower"
                " optimizer.lr, or raise loss.r1 and loss.r2"
            )

    def _finish(self) -> Result:
        """The closing evaluation and save, where the last step has not had them, and the scores to report."""
        seconds, rate = self.pace.seconds, self.pace.images_per_second
        if self.metrics.get("step") != self.step:
            # A limit stopped the run off its schedule. What continues it later must not know that anyone looked here,
            # or it would not end as a run without the stop: the state is taken before the look.
            self._check_finite()
            state = self.state_dict()
            if self._evaluate_at_stop:
                self.metrics = self._evaluate()
                self._emit("on_evaluation", self.metrics)
            score = self.metrics.get(self.config.checkpoint.monitor) if self._evaluate_at_stop else None
            self._save(state | {"metrics": self.metrics}, best=self._store.is_best(score))
        self._emit("on_end", self._stop_reason)
        best = self._store.best if self._store.best.exists() else None
        metrics = self._final_scores() if best and self._stop_reason in FINISHED else {"split": "val"} | self.metrics
        return Result(
            self.run_dir, self.step, self.images, seconds, rate, best, self._store.last, metrics, self._stop_reason
        )

    # --- what callbacks see (with config, run_dir, class_names, step, images, epoch_images) and may ask for ---

    @property
    def horizon_images(self) -> int | None:
        return self.pace.horizon_images

    @property
    def seconds(self) -> float:
        return self.pace.seconds

    @property
    def images_per_second(self) -> float:
        return self.pace.images_per_second

    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        return self._source.draw(z, label)

    def request_stop(self, reason: str, *, evaluate: bool = True) -> None:
        self._stop_reason = self._stop_reason or reason
        self._evaluate_at_stop = self._evaluate_at_stop and evaluate

    def request_evaluation(self) -> None:
        self._wants_evaluation = True

    def request_checkpoint(self) -> None:
        self._wants_checkpoint = True

    # --- state and files ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future of the run depends on, and what describes it."""
        return {
            "progress": {
                "step": self.step,
                "images": self.images,
                "batch_size": self.batch_size,
                **self.pace.state_dict(),
            },
            "networks": self._step.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "callbacks": {callback.key: callback.state_dict() for callback in self.callbacks},
            "checkpoints": self._store.state_dict(),
            "metrics": dict(self.metrics),
            "config": self.config.model_dump(mode="json"),
            "data": {"class_names": list(self.class_names), "shape": list(self.shape)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a run up where `state` was taken."""
        if (before := state["progress"]["batch_size"]) != self.batch_size:
            raise ValueError(f"the run has a batch of {before}, here it would be {self.batch_size}; give --batch-size")
        self._step.load_state_dict(state["networks"])
        self.step, self.images = state["progress"]["step"], state["progress"]["images"]
        self.pace.load_state_dict(state["progress"])
        torch.set_rng_state(state["torch_rng"])
        for callback in self.callbacks:
            if callback.key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.key])
        self._store.load_state_dict(state["checkpoints"])
        # in another folder there is no checkpoint yet, so the run must end with a look of its own
        self.metrics = dict(state["metrics"]) if self._store.last.exists() else {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes a run up from a checkpoint.

        Raises:
            CheckpointError: it belongs to other networks or another version.
        """
        try:
            self.load_state_dict(checkpoint.state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path}: it does not fit these settings: {error}") from error

    def describe(self) -> dict[str, Any]:
        """What is going to be trained, in numbers."""
        parameters = {phase.name: sum(p.numel() for p in phase.network.parameters()) for phase in self._step.phases}
        horizon = self.pace.horizon_images
        return {
            "device": str(self.device),
            "generator_parameters": parameters["generator"],
            "discriminator_parameters": parameters["discriminator"],
            # weights, gradients and two moments of both networks, and the average
            "state_bytes": 4 * (4 * sum(parameters.values()) + parameters["generator"]),
            "training_images": self._batches.size,
            "batch_size": self.batch_size,
            "steps_per_epoch": self._batches.per_epoch,
            "steps": -(-horizon // self.batch_size) if horizon else None,
            "first_step": self.step,
        }

    def _save(self, state: Mapping[str, Any] | None = None, *, best: bool = False) -> None:
        self._wants_evaluation = self._wants_checkpoint = False
        if state is None:
            self._store.keep_recent(self.step)
            state = self.state_dict()
        self._emit("on_checkpoint", self._store.save(state, self.step, best=best))

    def _evaluate(self) -> dict[str, Any]:
        if self._evaluator is None:
            n = self.config.evaluation.n
            self._evaluator = Evaluator(self.config.data, "val", n=n, device=self.device)
        scores = self._evaluator.score(self._source, manifold=False)
        return {"step": self.step, "images": self.images, "split": "val", **scores}

    def _final_scores(self) -> dict[str, Any]:
        """The best checkpoint's scores on the test set, by which nothing was chosen."""
        best = read_checkpoint(self._store.best)
        self._step.ema.load_state_dict(best.state["networks"]["ema"])
        evaluator = Evaluator(self.config.data, "test", n=10_000, device=self.device)
        where = {"step": best.step, "images": best.state["progress"]["images"], "split": "test"}
        return where | evaluator.score(self._source)

    def _emit(self, hook: str, *arguments: Any) -> None:
        for callback in self._overridden[hook]:
            getattr(callback, hook)(self, *arguments)
