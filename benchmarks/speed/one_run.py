"""Measures one loop in a process of its own; tells one JSON object. Started by `speed.py`.

python -m benchmarks.speed_run --system ours --preset conv --batch 64 --precision fp32 --seconds 4 --started TIME
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

from ganctl.benchmarks.quality.recorder import wait_for
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
    """Runs, measures, tells."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if system == "products":
        print(json.dumps({"flops": {name: products(name, device, seconds) for name in precision.split(",")}}))
        return
    if system == "automatic":
        print(json.dumps(automatic_precision(preset, batch)))
        return
    meter = Meter(seconds=seconds, started=started, device=device)
    if system == "lightning":
        from ganctl.benchmarks import tutorial_lightning  # of all systems only this one needs lightning

        with tempfile.TemporaryDirectory() as folder:
            tutorial_lightning.measure(meter, Path(folder), batch)
    else:
        words = [f"train.batch_size={batch}", *_precision(precision), *assignments]
        if system == "ours-eager":
            words.append("train.cuda_graph=false")
        train = _by_trainer if system.startswith("ours") else _by_hand
        train(system, preset, words, meter)
    print(json.dumps(meter.found))


def _precision(name: str) -> list[str]:
    return ["train.precision=fp32", "train.tf32=true"] if name == "tf32" else [f"train.precision={name}"]


def automatic_precision(preset: str, batch: int) -> dict[str, str]:
    """The precision that `auto` takes for a preset, with its reason; timed anew, whatever the cache holds."""
    from ganctl.training.loop.session import Session

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        settings = ["train.precision=auto", f"train.batch_size={batch}"]
        chosen = Session(preset=preset, assignments=settings, run_dir=Path(folder) / "run").build().parts.precision
    return {"precision": chosen.name, "reason": chosen.reason}


def products(precision: str, device: torch.device, seconds: float) -> float:
    """Floating point operations a second of this machine's matrix products: the best of a few sizes, two for each
    multiplication with its addition."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    set_tf32(precision == "tf32")
    best = 0.0
    sizes = (1024, 2048) if device.type == "cpu" else (4096, 8192)
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        a @ b
        found, ends = [], time.perf_counter() + seconds / len(sizes)
        while time.perf_counter() < ends:
            wait_for(device)
            began = time.perf_counter()
            a @ b
            wait_for(device)
            found.append(time.perf_counter() - began)
        found.sort()
        best = max(best, 2 * n**3 / found[len(found) // 2])
    return best


def _by_trainer(system: str, preset: str, words: list[str], meter: Meter) -> None:
    """As `ganctl train` does, with every callback that it has by default."""
    from ganctl.training.callbacks.base import Callback, Run
    from ganctl.training.loop.session import Session

    class Stop(Callback):
        def on_step(self, run: Run) -> None:
            if meter.tick(run.batch_size):
                run.request_stop("measured", evaluate=False)

    with tempfile.TemporaryDirectory() as folder:
        # training steps are what is measured, and the meter ends it
        words = [*words, "evaluation.every=1000000 epochs", "train.duration=1000000 epochs"]
        Session(preset=preset, assignments=words, run_dir=Path(folder) / "run").build(callbacks=[Stop()]).fit()


def _by_hand(system: str, preset: str, words: list[str], meter: Meter) -> None:
    """A loop around a step, and nothing else."""
    from ganctl.training.config.resolve import resolve
    from ganctl.training.distributed.ranks import SOLO
    from ganctl.training.loop.build import build_parts

    config, _ = resolve(preset=preset, assignments=words, environment={})
    parts = build_parts(config, SOLO)
    update = _update(system, parts)
    for step in itertools.count():
        update(step)
        if meter.tick(parts.batch_size):
            break
    if parts.device.type == "cuda":
        meter.found["kernel_seconds"] = _kernel_seconds(lambda: update(step), steps=20)


def _kernel_seconds(work: Callable[[], Any], *, steps: int) -> float:
    """Seconds of the kernels of one step, added up: what the GPU computes, without the gaps."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            work()
        wait_for(torch.device("cuda"))
    microseconds: float = sum(event.self_device_time_total for event in found.key_averages())
    return microseconds / steps / 1e6


def _update(system: str, parts: Any) -> Callable[[int], Any]:
    from ganctl.benchmarks.speed.bare import BareStep
    from ganctl.benchmarks.speed.straightforward import StraightforwardStep

    config, device, networks = parts.config, parts.device, (parts.step.generator, parts.step.discriminator)
    if system == "step":
        return lambda step: parts.update(parts.batches.batch_ref(step), step=step, progress=0.0)
    if system == "bare":
        bare = BareStep(config, *networks, device, parts.precision.name)
        return lambda step: bare(*parts.batches.at(step), step=step)
    plain = StraightforwardStep(config, *networks, device)
    return lambda step: plain(*parts.batches.at(step), step=step, progress=0.0)


if __name__ == "__main__":
    main()
