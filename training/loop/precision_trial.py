"""Chooses fp32 or bf16 on a CPU, for `train.precision = "auto"`, by timing a few training steps in each format.

The CPU's instruction sets do not decide it: bf16 is faster on a CPU with AMX, on some with AVX-512 BF16, and for some
networks only. The steps alternate between the formats and use separate networks, so that the run does not change. The
result is cached by machine and settings, and later runs reuse it.
"""

import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ganctl.training.config.cache_dir import keyed_path, read_cached, write_cached
from ganctl.training.config.schema import Config
from ganctl.training.data.base import ImageSet
from ganctl.training.device.precision import Precision
from ganctl.training.distributed.ranks import Ranks, preserve_random_states
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step

FORMATS = ("fp32", "bf16")
GAIN = 1.1  # bf16 must be this many times as fast: less may be noise, and fp32 rounds less
_SECONDS = 2.0  # limit for all steps
_REPEATS = 5  # timed steps of each format, on the final number of images
_FIRST_IMAGES = 4  # images per step at first
_GROWTH = 4  # factor from one number of images per step to the next
_STEADY = 1.25  # the median step takes at most this many times the fastest one, unless the machine is busy
_TRAIN_SETTINGS = {"first_update", "n_critic", "reuse_fakes"}  # settings of `train` that change a step

RunStep = Callable[[str, int], None]  # runs one step: (format, number of images)


@dataclass(frozen=True)
class Trial:
    """The fastest step of each format, in seconds, on `images` images."""

    seconds: dict[str, float]
    images: int

    @property
    def gain(self) -> float:
        """The speed of a bf16 step relative to fp32."""
        return self.seconds["fp32"] / self.seconds["bf16"]

    @property
    def fastest(self) -> str:
        """The faster format: bf16 where it wins by more than noise, else fp32."""
        return "bf16" if self.gain >= GAIN else "fp32"

    @property
    def reason(self) -> str:
        """The measured times, as the reason of the choice."""
        times = " and ".join(f"{1000 * self.seconds[name]:.3g} ms in {name}" for name in FORMATS)
        measured = f"a trial step on {self.images} images takes one thread {times}"
        return f"{measured}: {self.gain:.2f} times as fast" + ("" if self.gain >= GAIN else f", below {GAIN:g}")


def fastest_on_cpu(config: Config, data: ImageSet, *, batch: int, ranks: Ranks) -> Precision:
    """Returns the fastest format of this CPU, the same on all ranks: bf16 from a gain of `GAIN` on, else fp32.

    Args:
        config: the settings; `train.precision` is not read.
        data: the training images; the steps use the first ones.
        batch: images per step on this rank.
        ranks: the training processes. Each times its own steps, and the slowest decides.
    """
    path = _file(config, data, batch, ranks)
    if (cached := ranks.broadcast(read_cached(path, _read) if ranks.is_main else None)) is not None:
        return Precision(cached.fastest, "cpu", f"{cached.reason} (timed by an earlier run)")
    trial, steady, failure = None, False, None
    try:
        trial, steady = time_step(_steps(config, data), batch)
    except Exception as error:  # a custom network may raise anything in bf16; an fp32 error recurs in training
        failure = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    trials, steady_flags, failures = zip(*ranks.all_gather_object((trial, steady, failure)), strict=True)
    if any(failures):
        return Precision("fp32", "cpu", f"a trial step fails: {next(filter(None, failures))}")
    slowest: Trial = max(trials, key=lambda trial: trial.seconds["fp32"] / trial.images)
    if ranks.is_main and all(steady_flags):  # times of a busy machine are not cached
        write_cached(path, json.dumps(asdict(slowest)).encode())
    return Precision(slowest.fastest, "cpu", slowest.reason)


def time_step(run: RunStep, batch: int) -> tuple[Trial, bool]:
    """Times steps in each format, in turns: for less than two seconds, or two slow steps of each.

    The time is the CPU time of a single thread. Other processes change it little, while they may slow a step of several
    threads ten times, now in one format, now in the other.

    Args:
        run: runs one step: `run(format, images)`.
        batch: images of a training step.

    Returns:
        The trial, and whether its times were steady.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _time_in_turns(run, batch)
    finally:
        torch.set_num_threads(threads)


def _time_in_turns(run: RunStep, batch: int) -> tuple[Trial, bool]:
    """Implements `time_step` on one thread.

    The number of images grows towards `batch` while time allows, since formats differ less on few images: with AMX,
    bf16 may be 1.1 times as fast on 16 images, and 1.4 times on 64. The first step on each number of images is not
    counted: libraries prepare their kernels in it.
    """
    deadline = time.thread_time() + _SECONDS
    images = min(batch, _FIRST_IMAGES)
    _time_each(run, images)
    timings = [_time_each(run, images)]
    while images < batch:
        larger = min(batch, images * _GROWTH)
        expected = sum(timings[0].values()) * larger / images  # an upper bound
        if time.thread_time() + 2 * expected > deadline:
            break
        images = larger
        _time_each(run, images)
        timings = [_time_each(run, images)]
    while len(timings) < _REPEATS and time.thread_time() + sum(timings[-1].values()) < deadline:
        timings.append(_time_each(run, images))
    by_format = {name: [seconds[name] for seconds in timings] for name in FORMATS}
    steady = all(statistics.median(times) <= _STEADY * min(times) for times in by_format.values())
    return Trial({name: min(times) for name, times in by_format.items()}, images), steady


def _time_each(run: RunStep, images: int) -> dict[str, float]:
    """Returns the CPU seconds of one step in each format."""
    seconds = {}
    for name in FORMATS:
        start = time.thread_time()
        run(name, images)
        seconds[name] = time.thread_time() - start
    return seconds


def _steps(config: Config, data: ImageSet) -> RunStep:
    """Builds networks like those of the run and returns a function that steps them; keeps the global random state."""
    device, shape = torch.device("cpu"), ImageShape(*data.shape)

    def build(name: str) -> Step:
        with preserve_random_states(device):
            torch.manual_seed(config.train.seed)
            generator = build_generator(config.model, shape, data.num_classes)
            discriminator = build_discriminator(config.model, shape, data.num_classes)
        precision = Precision(name, "cpu", "trial")
        return Step(config, generator, discriminator, device, precision=precision, held_out=data)

    steps = {name: build(name) for name in FORMATS}

    def run(name: str, images: int) -> None:
        with preserve_random_states(device):  # dropout draws random numbers
            for step in range(config.train.n_critic):  # the generator is updated in the last of them
                steps[name](data.images[:images], data.labels[:images], step=step, progress=0.0)

    return run


def _file(config: Config, data: ImageSet, batch: int, ranks: Ranks) -> Path | None:
    """Returns the cache file of this step on this machine; None without a cache."""
    cpu = dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else platform.processor()
    facts = [
        "3",  # cache version: raise it when the meaning of a trial changes
        config.model_dump(
            mode="json",
            include={"model": True, "loss": True, "augment": True, "optimizer": True, "train": _TRAIN_SETTINGS},
        ),
        [batch, ranks.size, data.shape, data.num_classes],
        [cpu, torch.get_num_threads(), torch.__version__],
    ]
    return keyed_path("precision", facts, ".json")


def _read(path: Path) -> Trial:
    stored = json.loads(path.read_bytes())
    trial = Trial({name: float(stored["seconds"][name]) for name in FORMATS}, int(stored["images"]))
    if not all(0 < seconds < math.inf for seconds in trial.seconds.values()):
        raise ValueError(f"times: found {trial.seconds}, expected finite positive seconds")
    return trial
