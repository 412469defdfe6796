"""Measures one training loop and prints one JSON object; `ganctl bench train` starts it.

    python -m ganctl.benchmarks.speed.one_run --system ours --preset conv --batch 64 --precision fp32 \\
        --seconds 4 --started TIME
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from ganctl.benchmarks.quality.recorder import synchronize
from ganctl.benchmarks.speed.meter import Meter
from ganctl.training.device.precision import set_tf32

SYSTEMS = ("ours", "ours-eager", "step", "bare", "straightforward", "lightning", "products", "automatic")


@click.command()
@click.option("--system", type=click.Choice(SYSTEMS), required=True)
@click.option("--preset", default="conv")
@click.option("--batch", type=int, default=64)
@click.option("--precision", default="fp32")
@click.option("--set", "assignments", multiple=True)
@click.option("--seconds", type=float, required=True)
@click.option("--started", type=float, required=True)
def main(
    system: str,
    preset: str,
    batch: int,
    precision: str,
    assignments: tuple[str, ...],
    seconds: float,
    started: float,
) -> None:
    """Measure a loop and print the result as JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if system == "products":
        print(json.dumps({"flops": {name: products(name, device, seconds) for name in precision.split(",")}}))
        return
    if system == "automatic":
        print(json.dumps(automatic_precision(preset, batch)))
        return
    meter = Meter(seconds=seconds, started=started, device=device)
    if system == "lightning":
        from ganctl.benchmarks import tutorial_lightning  # only this system needs lightning

        with tempfile.TemporaryDirectory() as folder:
            tutorial_lightning.measure(meter, Path(folder), batch)
    else:
        arguments = [f"train.batch_size={batch}", *_precision(precision), *assignments]
        if system == "ours-eager":
            arguments.append("train.cuda_graph=false")
        train = _by_trainer if system.startswith("ours") else _by_hand
        train(system, preset, arguments, meter)
    print(json.dumps(meter.results))


def _precision(name: str) -> list[str]:
    return ["train.precision=fp32", "train.tf32=true"] if name == "tf32" else [f"train.precision={name}"]


def automatic_precision(preset: str, batch: int) -> dict[str, str]:
    """Returns the precision that `auto` chooses for a preset, and the reason; ignores cached timings."""
    from ganctl.training.loop.session import Session

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        settings = ["train.precision=auto", f"train.batch_size={batch}"]
        chosen = Session(preset=preset, assignments=settings, run_dir=Path(folder) / "run").build().parts.precision
    return {"precision": chosen.name, "reason": chosen.reason}


def products(precision: str, device: torch.device, seconds: float) -> float:
    """Returns the FLOP/s of this machine's matrix products: the best of several sizes, two per multiply-add."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    set_tf32(precision == "tf32")
    best = 0.0
    sizes = (1024, 2048) if device.type == "cpu" else (4096, 8192)
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        a @ b
        durations, deadline = [], time.perf_counter() + seconds / len(sizes)
        while time.perf_counter() < deadline:
            synchronize(device)
            started = time.perf_counter()
            a @ b
            synchronize(device)
            durations.append(time.perf_counter() - started)
        durations.sort()
        best = max(best, 2 * n**3 / durations[len(durations) // 2])
    return best


def _by_trainer(system: str, preset: str, arguments: list[str], meter: Meter) -> None:
    """Trains as `ganctl train` does, with every default callback."""
    from ganctl.training.callbacks.base import Callback, Run
    from ganctl.training.loop.session import Session

    class Stop(Callback):
        def on_step(self, run: Run) -> None:
            if meter.tick(run.batch_size):
                run.request_stop("measured", evaluate=False)

    with tempfile.TemporaryDirectory() as folder:
        # Only training steps are measured; the meter stops the run.
        arguments = [*arguments, "evaluation.every=1000000 epochs", "train.duration=1000000 epochs"]
        Session(preset=preset, assignments=arguments, run_dir=Path(folder) / "run").build(callbacks=[Stop()]).fit()


def _by_hand(system: str, preset: str, arguments: list[str], meter: Meter) -> None:
    """Runs a bare loop around a step."""
    from ganctl.training.config.resolve import resolve
    from ganctl.training.distributed.ranks import SINGLE_RANK
    from ganctl.training.loop.build import build_parts

    config, _ = resolve(preset=preset, assignments=arguments, environment={})
    parts = build_parts(config, SINGLE_RANK)
    update = _update(system, parts)
    for step in itertools.count():
        update(step)
        if meter.tick(parts.batch_size):
            break
    if parts.device.type == "cuda":
        meter.results["kernel_seconds"] = _kernel_seconds(lambda: update(step), steps=20)


def _kernel_seconds(work: Callable[[], Any], *, steps: int) -> float:
    """Returns the sum of the GPU kernels' times of one step in seconds, without gaps between kernels."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            work()
        synchronize(torch.device("cuda"))
    microseconds: float = sum(event.self_device_time_total for event in profiler.key_averages())
    return microseconds / steps / 1e6


def _update(system: str, parts: Any) -> Callable[[int], Any]:
    from ganctl.benchmarks.speed.bare import BareStep
    from ganctl.benchmarks.speed.straightforward import StraightforwardStep

    config, device, networks = parts.config, parts.device, (parts.step.generator, parts.step.discriminator)
    if system == "step":
        return lambda step: parts.step_runner(parts.batches.batch_ref(step), step=step, progress=0.0)
    if system == "bare":
        bare = BareStep(config, *networks, device, parts.precision.name)
        return lambda step: bare(*parts.batches.at(step), step=step)
    plain = StraightforwardStep(config, *networks, device)
    return lambda step: plain(*parts.batches.at(step), step=step, progress=0.0)


if __name__ == "__main__":
    main()
