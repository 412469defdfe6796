"""Builds a `StepRunner` of small networks, trains with it, and returns all tensors of its step."""

from typing import Any

import torch

from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.cuda_graph import StepRunner
from ganctl.training.step.step import Step
from tests.unit.training.steps import CPU, SHAPE, batch, held_out

BATCH = 16  # images per step, over all ranks
SMALL = (
    "model.base_channels=4",
    "train.ema_decay=0.9",
    "optimizer.grad_clip_ratio=0.5",
    "optimizer.decay_start=0.1",
    "train.precision=fp32",
)


def settings(*assignments: str, preset: str = "conv") -> Config:
    return resolve(preset=preset, assignments=[*SMALL, *assignments], environment={})[0]


def build_runner(
    config: Config, device: torch.device = CPU, *, name: str = "fp32", ranks: Ranks = SINGLE_RANK, **options: Any
) -> tuple[Step, StepRunner]:
    """Builds a capturable step and its runner; `options` are those of `StepRunner`."""
    torch.manual_seed(0)
    generator = build_generator(config.model, SHAPE, 10).to(device)
    discriminator = build_discriminator(config.model, SHAPE, 10).to(device)
    precision = Precision(name, device.type, "set by the test")
    step = Step(
        config,
        generator,
        discriminator,
        device,
        precision=precision,
        ranks=ranks,
        capturable=True,
        held_out=held_out(),
    )
    images, labels = (tensor.to(device) for tensor in batch(64))
    return step, StepRunner(step, lambda index: (images[index], labels[index]), **options)


def train(step: Step, runner: StepRunner, *, steps: int = 20) -> dict[str, float]:
    """Varies the batch, the learning rate, the penalties and the EMA decay from step to step; returns the losses."""
    for n in range(steps):
        index = torch.arange(n, n + BATCH, device=step.device) % 64
        runner((index[step.ranks.local_slice(BATCH)],), step=n, progress=n / steps, lr_factor=1 / (1 + n))
    return step.read_stats()


def state(step: Step) -> dict[str, torch.Tensor]:
    """Returns all tensors of the networks, the optimizers and the losses."""
    networks = {"generator": step.generator, "discriminator": step.discriminator, "ema": step.ema}
    tensors = {f"{name}.{key}": t for name, net in networks.items() for key, t in net.state_dict().items()}
    for phase in step.phases:
        for key, moments in phase.optimizer.state_dict()["state"].items():
            tensors |= {f"{phase.name}.{key}.{moment}": value for moment, value in moments.items()}
    return tensors | {f"losses.{key}": value for key, value in step.objective.state_dict().items()}
