"""Run by torchrun in test_ranks.py: writes the gradients and weights of some updates for a table of settings.

Each rank computes its share of the batch; rank 0 writes the results to the file in the first argument. On a GPU, all
ranks share it and send their tensors by gloo, since NCCL needs a GPU for each rank.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ganctl.training.config.resolve import resolve
from ganctl.training.data.base import ImageSet
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.losses.backend import Batch
from ganctl.training.losses.terms import LossResult
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.phase import Phase
from ganctl.training.step.step import Step

SHAPE, BATCH, STEPS = ImageShape(1, 28, 28), 8, 3


class BatchNormDiscriminator(nn.Module):
    """A discriminator with batch normalization, and with a scalar parameter."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        inner = (nn.Linear(SHAPE.size, 16), nn.LeakyReLU(0.2), nn.BatchNorm1d(16))
        self.factor = nn.Parameter(torch.tensor(1.5))
        self.net = nn.Sequential(nn.Flatten(), *inner, nn.Linear(16, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images).squeeze(1) * self.factor
        return logits


def record_gradients(phase: Phase, ranks: Ranks, gradients: dict[str, Tensor]) -> Callable[[Batch], LossResult]:
    """Wraps the backward pass of a phase: stores its gradients, averaged over the ranks, in `gradients`."""

    def backward(batch: Batch) -> LossResult:
        result = phase.backward_loss(batch)
        for key, parameter in phase.network.named_parameters():
            if parameter.grad is not None:
                gradients[f"{phase.name}.{key}"] = parameter.grad.clone()
                ranks.all_reduce_mean([gradients[f"{phase.name}.{key}"]])
        return result

    return backward


def main(target: str, cases: dict[str, list[str]], device: torch.device) -> None:
    ranks = replace(Ranks.join(), gpu_backend="gloo")
    results: dict[str, Tensor] = {}
    for name, assignments in cases.items():
        preset, *rest = assignments
        settings = ["model.base_channels=4", "loss.penalty_every=1", *rest]  # few steps, and all have the penalties
        config, _ = resolve(preset=preset, assignments=settings, environment={})
        for dtype in (torch.float64, torch.float32):
            torch.manual_seed(1)
            generator = build_generator(config.model, SHAPE, 10).to(device, dtype)
            discriminator = build_discriminator(config.model, SHAPE, 10).to(device, dtype)
            held_out = ImageSet(torch.arange(4 * 784).view(4, *SHAPE).to(torch.uint8), torch.arange(4), ("",) * 10)
            step = Step(config, generator, discriminator, device, ranks=ranks, held_out=held_out)
            gradients: dict[str, Tensor] = {}
            step.phases = [
                replace(phase, backward_loss=record_gradients(phase, ranks, gradients)) for phase in step.phases
            ]
            rng = torch.Generator().manual_seed(2)
            for number in range(STEPS):
                images = torch.randint(256, (BATCH, *SHAPE), generator=rng, dtype=torch.uint8)
                labels = torch.randint(10, (BATCH,), generator=rng)
                share = ranks.local_slice(BATCH)
                images, labels = images[share].to(device), labels[share].to(device)
                step(images, labels, step=number, progress=0.0, lr_factor=0.1)
                if number == 0:
                    results |= {f"{name}/{dtype}/gradient/{key}": gradient for key, gradient in gradients.items()}
            for network in ("generator", "discriminator", "ema"):
                for key, value in getattr(step, network).state_dict().items():
                    results[f"{name}/{dtype}/after/{network}.{key}"] = value.clone()
    if ranks.is_main:
        save_file({key: value.contiguous() for key, value in results.items()}, target)
    ranks.leave()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), torch.device(sys.argv[3]))
