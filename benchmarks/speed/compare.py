"""Measures training loops for `ganctl bench train`, each in a process of its own; medians and ratios.

Compared for each preset and batch size: our trainer with every default callback, in each precision; a bare loop around
the same step; the peers (PyTorch Lightning's tutorial; a straightforward implementation of `conv`); and the limit set
by this machine's matrix products alone. The results include the precision that `auto` chooses. Repetitions are
interleaved, so that a drift of the machine's speed affects all loops. A ratio is the median of the repetitions' ratios.
"""

import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.report import JsonObject, machine
from ganctl.benchmarks.systems import INSTALL
from ganctl.training.config.resolve import preset_names, resolve
from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.loop.build import build_parts
from ganctl.training.loop.precision_trial import FORMATS as CPU_PRECISIONS

_MAX_CPU_BATCH = 256  # images


@dataclass(frozen=True)
class Loop:
    """One loop to measure: a system of `one_run.py` with a preset's networks."""

    system: str
    preset: str
    batch: int
    precision: str
    assignments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([f"{self.preset}, batch {self.batch}: {self.system} {self.precision}", *self.assignments])

    def arguments(self) -> list[str]:
        """Returns the arguments for `one_run.py`."""
        options = {"system": self.system, "preset": self.preset, "batch": self.batch, "precision": self.precision}
        return [f"--{name}={value}" for name, value in options.items()] + [f"--set={each}" for each in self.assignments]


def comparison(*, cuda: bool) -> list[Loop]:
    """Returns the loops to compare on such a machine, including each preset's trainer in every precision."""
    cases = _on_cuda() if cuda else _on_cpu()
    precisions = ("fp32", "tf32", "bf16", "fp16") if cuda else CPU_PRECISIONS
    presets = preset_batches(cuda=cuda)
    every = [Loop("ours", preset, batch, precision) for preset, batch in presets for precision in precisions]
    return list(dict.fromkeys([*cases, *every]))


def preset_batches(*, cuda: bool) -> list[tuple[str, int]]:
    """Returns each preset with its batch size on such a machine; the tutorial's networks also with batch 256.

    On a CPU, a batch has at most 256 images: a step of `gpu` with 4,096 images would take half a minute.
    """
    batches = []
    for preset in preset_names():
        size = resolve(preset=preset, environment={})[0].train.batch_size
        batch = (256 if cuda else 64) if size == "auto" else int(size)
        batches.append((preset, batch if cuda else min(batch, _MAX_CPU_BATCH)))
    return list(dict.fromkeys([*batches, ("lightning-basic-gan", 256)]))


def _on_cpu() -> list[Loop]:
    """Returns the cases for two batch sizes of the tutorial and that of the preset `conv`."""
    cases = []
    for batch in (64, 256):
        cases += [Loop("lightning", "lightning-basic-gan", batch, "fp32")]
        cases += [Loop(system, "lightning-basic-gan", batch, p) for p in CPU_PRECISIONS for system in ("bare", "ours")]
    own = int(resolve(preset="conv", environment={})[0].train.batch_size)
    cases += [Loop("straightforward", "conv", own, "fp32")]
    return [*cases, *(Loop(system, "conv", own, p) for p in CPU_PRECISIONS for system in ("step", "ours"))]


def _on_cuda() -> list[Loop]:
    """Returns the cases for the tutorial's batch size on a GPU and that of the preset `gpu`."""
    tutorial, large = "lightning-basic-gan", int(resolve(preset="gpu", environment={})[0].train.batch_size)
    ours = ("ours", "tf32"), ("ours", "bf16")
    small = ("lightning", "fp32"), ("bare", "fp32"), ("ours-eager", "bf16"), ("step", "tf32"), *ours
    cases = [Loop(system, tutorial, 256, precision) for system, precision in small]
    cases += [Loop(system, tutorial, large, precision) for system, precision in (("lightning", "fp32"), *ours)]
    own = ("straightforward", "fp32"), ("ours-eager", "bf16"), ("step", "bf16"), *ours
    return [*cases, *(Loop(system, "gpu", large, precision) for system, precision in own)]


def measure_all(*, seconds: float, repetitions: int, announce: Callable[[str], None]) -> JsonObject:
    """Runs all measurements of `ganctl bench train` and returns its results.

    Raises:
        BenchError: a loop failed.
    """
    cuda = torch.cuda.is_available()
    speed = SpeedBenchmark(seconds=seconds, repetitions=repetitions, announce=announce)
    results = speed.run(comparison(cuda=cuda), ["fp32", "tf32", "bf16"] if cuda else CPU_PRECISIONS)
    results["automatic"] = speed.automatic(preset_batches(cuda=cuda))
    results |= {"machine": machine(), "seconds": seconds, "repetitions": repetitions, "skipped": speed.skipped}
    return results


class SpeedBenchmark:
    """Measures cases, interleaved."""

    def __init__(self, *, seconds: float, repetitions: int, announce: Callable[[str], None]) -> None:
        """Measures each case for `seconds` in each repetition, after a warm-up."""
        self._seconds, self._repetitions, self._announce = seconds, repetitions, announce
        self.skipped: dict[str, str] = {}

    def automatic(self, presets: Sequence[tuple[str, int]]) -> list[JsonObject]:
        """Returns the precision that `auto` chooses for each preset and batch size, and the reason."""
        return [
            {"preset": preset, "batch": batch} | self._measure(Loop("automatic", preset, batch, "auto").arguments())
            for preset, batch in presets
        ]

    def run(self, cases: Sequence[Loop], precisions: Sequence[str]) -> JsonObject:
        """Measures all cases and the machine's matrix products in each repetition.

        Raises:
            BenchError: a measurement failed.
        """
        if any(case.system == "lightning" for case in cases) and not importlib.util.find_spec("lightning"):
            self.skipped["lightning"] = f"it needs the package lightning: {INSTALL}"
            cases = [case for case in cases if case.system != "lightning"]
        runs: dict[str, list[JsonObject]] = {case.name: [] for case in cases}
        products: dict[str, list[float]] = {precision: [] for precision in precisions}
        for repetition in range(self._repetitions):
            measured = self._measure(["--system", "products", "--precision", ",".join(precisions)])
            for precision, flops_per_second in measured["flops"].items():
                products[precision].append(flops_per_second)
            for case in cases:
                measured = self._measure(case.arguments())
                runs[case.name].append(measured)
                self._announce(
                    f"{repetition + 1} of {self._repetitions}: {case.name}:"
                    f" {measured['images_per_second']:,.0f} images/s"
                )
        flops = {precision: statistics.median(rates) for precision, rates in products.items()}
        return {"products_flops": flops, "cases": [_summary(case, runs[case.name], flops) for case in cases]}

    def _measure(self, arguments: list[str]) -> JsonObject:
        timed = ["--seconds", str(self._seconds), "--started", str(time.time())]
        done = run_module(["ganctl.benchmarks.speed.one_run", *arguments, *timed])
        if done.returncode:
            raise BenchError(f"{' '.join(arguments)} failed with exit code {done.returncode}:\n{done.stderr.strip()}")
        record: JsonObject = json.loads(done.stdout.strip().splitlines()[-1])
        return record


def _summary(case: Loop, runs: list[JsonObject], products: dict[str, float]) -> JsonObject:
    rates = [run["images_per_second"] for run in runs]
    flops = flops_per_image(case.preset, case.batch, case.assignments)
    rate = statistics.median(rates)
    return asdict(case) | {
        "images_per_second": rate,
        "rates": rates,
        "flops_per_image": flops,
        "share_of_products": rate * flops / products[case.precision] if case.precision in products else None,
        "first_step_seconds": statistics.median(run["first_step_seconds"] for run in runs),
        "memory_bytes": statistics.median(run["memory_bytes"] for run in runs),
        "step_over_kernels": _over_kernels(runs, case.batch),
        "device_bytes": statistics.median(run.get("device_bytes", 0) for run in runs),
    }


def _over_kernels(runs: list[JsonObject], batch: int) -> float | None:
    """Returns the step time divided by the sum of its kernels' times, or None without kernels, as on a CPU."""
    if not all("kernel_seconds" in run for run in runs):
        return None
    return float(statistics.median(batch / run["images_per_second"] / run["kernel_seconds"] for run in runs))


def ratio(one: JsonObject, other: JsonObject) -> float:
    """Returns the speed of `one` relative to `other`: the median of the repetitions' ratios."""
    return float(statistics.median(a / b for a, b in zip(one["rates"], other["rates"], strict=True)))


def flops_per_image(preset: str, batch: int, assignments: Sequence[str] = ()) -> float:
    """Returns the floating point operations per image of our step, in matrix products and convolutions only.

    It is the mean over the steps from one penalty to the next.
    """
    arguments = [f"train.batch_size={batch}", "train.device=cpu", "train.precision=fp32", *assignments]
    config, _ = resolve(preset=preset, assignments=arguments, environment={})
    parts = build_parts(config, SINGLE_RANK)
    steps = config.loss.penalty_every if config.loss.has_gradient_penalty else 1
    with _FlopCounter() as counter:
        for step in range(steps):
            parts.step(*parts.batches.at(step), step=step, progress=0.0)
    return float(counter.flops / (steps * batch))


class _FlopCounter(TorchDispatchMode):
    """Counts with PyTorch's formulas. FlopCounterMode cannot be used: its module tracker fails on `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in PyTorch
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result
