"""Compares a step with one flattened all-reduce per phase (ours) with DistributedDataParallel.

    torchrun --standalone --nproc-per-node 2 -m ganctl.benchmarks.speed.rank_step [--repetitions 5] [--steps 40]

Both apply the same update to the same networks with the same random numbers; only the averaging of gradients differs.
The settings are interleaved within each repetition. The table gives medians, and the median of the repetitions' ratios.
The networks have no batch normalization, which DistributedDataParallel cannot train here: its buffers are written
between the forward passes and the backward pass (pytorch#175024).
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from torch.nn.parallel import DistributedDataParallel

from ganctl.benchmarks.report import markdown_table
from ganctl.training.config.resolve import resolve
from ganctl.training.data.datasets import load_split
from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks, choose_device
from ganctl.training.losses.backend import AutogradBackend, Batch
from ganctl.training.losses.terms import LossResult
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.phase import Phase
from ganctl.training.step.step import Step

WARM_UP = 10  # steps
CASES: dict[str, tuple[str, ...]] = {
    "conv, R1 and R2": ("loss.penalty_every=1",),
    "conv, no penalty": ("loss.r1=0", "loss.r2=0", "loss.name=non-saturating"),
}


class DDPPhase(Phase):
    """A phase whose gradients DistributedDataParallel averages during the backward pass."""

    def step(self, scaler: torch.amp.GradScaler, ranks: Ranks = SINGLE_RANK) -> None:
        super().step(scaler)  # with a single rank: the gradients are averaged already


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--batch", default=64, show_default=True, help="Batch size over all ranks.")
def main(repetitions: int, steps: int, batch: int) -> None:
    """Print a table of milliseconds per step."""
    ranks = Ranks.join()
    device = choose_device("auto", ranks)
    builders: dict[str, Callable[..., Step]] = {"ours": build, "DistributedDataParallel": build_wrapped}
    durations: dict[tuple[str, str], list[float]] = {}
    for _ in range(repetitions):
        for case, assignments in CASES.items():
            for name, builder in builders.items():
                seconds = measure(builder(assignments, ranks, device), ranks, steps, batch)
                durations.setdefault((case, name), []).append(1000 * seconds)
    if ranks.is_main:
        click.echo(f"{device}, {ranks.size} ranks of {torch.get_num_threads()} threads, batch {batch}")
        rows = []
        for case in CASES:
            ours, wrapped = durations[case, "ours"], durations[case, "DistributedDataParallel"]
            ratio = statistics.median(b / a for a, b in zip(ours, wrapped, strict=True))
            rows.append([case, f"{statistics.median(ours):.1f}", f"{statistics.median(wrapped):.1f}", f"{ratio:.2f}"])
        head = ["case", "ours, ms per step", "DistributedDataParallel", "ratio of pairs"]
        click.echo("\n".join(markdown_table(head, rows)))
    ranks.leave()


def build(assignments: tuple[str, ...], ranks: Ranks, device: torch.device) -> Step:
    """Builds our step."""
    # without the features that DistributedDataParallel cannot train
    common = [f"loss.{name}=0.0" for name in ("classification", "latent_reconstruction", "feature_matching")]
    common.append("train.reuse_fakes=false")
    config, _ = resolve(preset="conv", assignments=[*common, *assignments], environment={})
    shape = ImageShape(1, 28, 28)
    torch.manual_seed(0)
    generator = build_generator(config.model, shape, 10).to(device)
    discriminator: Any = build_discriminator(config.model, shape, 10).to(device)
    discriminator.classifier = discriminator.latent = None  # DistributedDataParallel needs every parameter to be used
    # DistributedDataParallel averages in autograd hooks
    return Step(config, generator, discriminator, device, ranks=ranks, backend=AutogradBackend)


def build_wrapped(assignments: tuple[str, ...], ranks: Ranks, device: torch.device) -> Step:
    """Builds the same step with DistributedDataParallel around the network that the current phase trains."""
    step = build(assignments, ranks, device)
    backend = step.objective.backend
    bare: dict[str, Any] = {"generator": step.generator, "discriminator": step.discriminator}
    wrapped: dict[str, Any] = {name: DistributedDataParallel(network) for name, network in bare.items()}
    # attributes of the generator that the objective reads
    wrapped["generator"].latent_dim, wrapped["generator"].conditional = step.generator.latent_dim, True

    def in_phase(phase: Phase) -> Callable[[Batch], LossResult]:
        def inner(batch: Batch) -> LossResult:
            networks = bare | {phase.name: wrapped[phase.name]}
            backend.generator, backend.discriminator = networks["generator"], networks["discriminator"]
            return phase.backward_loss(batch)

        return inner

    step.phases = [DDPPhase(**vars(phase) | {"backward_loss": in_phase(phase)}) for phase in step.phases]
    return step


def measure(step: Step, ranks: Ranks, steps: int, batch: int) -> float:
    """Returns the seconds per step."""
    data = load_split(resolve(environment={})[0].data, "train")
    share = ranks.local_slice(batch)
    images, labels = data.images[:batch][share].to(step.device), data.labels[:batch][share].to(step.device)
    for n in range(WARM_UP):
        step(images, labels, step=n, progress=0.0)
    step.read_stats()  # synchronizes device and ranks
    started = time.perf_counter()
    for n in range(steps):
        step(images, labels, step=WARM_UP + n, progress=0.0)
    step.read_stats()
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    main()
