"""From settings to the parts of a run: device, number format, data, networks, step. `trainer.py` moves them."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.config.schema import Config
from ganctl.training.data.datasets import load_split
from ganctl.training.data.image_folder import worker_count
from ganctl.training.data.loader import Batches
from ganctl.training.device.precision import Precision, check_precision, choose_precision, set_tf32
from ganctl.training.distributed.ranks import Ranks, choose_device, fingerprint
from ganctl.training.errors import ConfigError
from ganctl.training.loop.precision_trial import fastest_on_cpu
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.cuda_graph import StepRunner, why_eager
from ganctl.training.step.step import Step

_BATCH_ON_CUDA, _BATCH_ON_CPU = 256, 64  # what `auto` means, as in the tutorial


@dataclass(frozen=True)
class Parts:
    """The parts of a run. In `config` every `auto` that decides what is computed has become a value."""

    config: Config
    device: torch.device
    precision: Precision
    class_names: tuple[str, ...]
    class_images: tuple[int, ...]  # training images of each class
    shape: ImageShape
    data: dict[str, Any]  # what tells the data from other data, as JSON
    batch_size: int  # over all ranks
    batches: Batches
    step: Step
    update: StepRunner

    def describe(self, ranks: Ranks) -> dict[str, Any]:
        """What is going to be trained, in numbers."""
        parameters = _parameter_counts(self.step)
        return {
            "device": str(self.device),
            "precision": self.precision.name,
            "precision_reason": self.precision.reason,
            "cuda_graph": self.update.eager is None,
            "cuda_graph_reason": self.update.eager or "a replay costs less than launching each kernel",
            "gradients": type(self.step.objective.backend).__name__,
            "gradients_reason": self.step.objective.reason or "hand-derived gradients take fewer passes",
            "ranks": ranks.size,
            "generator_parameters": parameters["generator"],
            "discriminator_parameters": parameters["discriminator"],
            "training_images": self.batches.size,
            "classes": [
                {"name": name, "images": images}
                for name, images in zip(self.class_names, self.class_images, strict=True)
            ],
            "batch_size": self.batch_size,
            "batch_size_per_rank": self.batch_size // ranks.size,
            "steps_per_epoch": self.batches.per_epoch,
        }

    def estimate_memory(self, ranks: Ranks) -> dict[str, int]:
        """An estimate of one rank's memory, in bytes; it runs both networks once."""
        parameters = _parameter_counts(self.step)
        # weights, gradients and two moments of both networks, and the average
        weights = 4 * (4 * sum(parameters.values()) + parameters["generator"])
        data = self.batches.resident_bytes
        # what the larger phase keeps for its backward pass
        activations = self.batch_size // ranks.size * _activation_bytes(self.step, self.shape)
        return {
            "state_bytes": weights,
            "data_bytes": data,
            "activation_bytes": activations,
            "memory_bytes": weights + data + activations,
        }


def build_parts(config: Config, ranks: Ranks) -> Parts:
    """Builds everything that a run needs. Networks begin with the same weights on every rank.

    Raises:
        ConfigError, DataError: the settings do not fit the data, the ranks or this machine.
    """
    device = choose_device(config.train.device, ranks)
    if device.type == "cuda" and ranks.size > 1:
        torch.cuda.set_device(device)  # where NCCL, and what names no device, is to be
    check_precision(config, device)
    set_tf32(config.train.tf32)
    ranks.on_first(lambda: len(load_split(config.data, "train")))  # where it must be fetched or read, once
    data = load_split(config.data, "train")
    facts = {"class_names": list(data.class_names), "shape": list(data.shape), "digest": data.digest()}
    if ranks.size > 1:  # machines may differ in what is on their disks, and in their GPUs
        ranks.assert_equal_across_ranks("the training images", facts)
    batch_size = _batch_size(config, device, ranks, len(data))
    precision = choose_precision(
        config, device, fastest_on_cpu=lambda: fastest_on_cpu(config, data, batch=batch_size // ranks.size, ranks=ranks)
    )
    if ranks.size > 1:
        ranks.assert_equal_across_ranks("train.precision", precision.name)
    chosen = config.train.model_copy(update={"batch_size": batch_size, "precision": precision.name})
    config = config.model_copy(update={"train": chosen})
    seed, shape, classes = config.train.seed, ImageShape(*data.shape), len(data.class_names)
    torch.manual_seed(seed)
    generator = build_generator(config.model, shape, classes).to(device)
    discriminator = build_discriminator(config.model, shape, classes).to(device)
    if batch_size == 1 and any(isinstance(m, _BatchNorm) for net in (generator, discriminator) for m in net.modules()):
        raise ConfigError(["train.batch_size = 1: batch normalisation needs two images or more at a time."])
    if ranks.size > 1:
        ranks.assert_equal_across_ranks(
            "the first weights", [fingerprint(n.state_dict().values()) for n in (generator, discriminator)]
        )
    torch.manual_seed(seed + ranks.rank)  # what a network of one's own draws by itself differs from rank to rank
    batches = Batches(
        data,
        batch_size=batch_size,
        seed=seed,
        device=device,
        rank=ranks.rank,
        ranks=ranks.size,
        resident=config.data.on_device,
        workers=worker_count(config.data),
    )
    eager = why_eager(config, device, ranks)
    step = Step(
        config, generator, discriminator, device, precision=precision, ranks=ranks, capturable=eager is None
    )  # fmt: skip
    update = StepRunner(step, batches.gather, eager=eager)
    counts = tuple(torch.bincount(data.labels, minlength=classes).tolist())
    names = data.class_names
    return Parts(config, device, precision, names, counts, shape, facts, batch_size, batches, step, update)


def check_ranks(config: Config, ranks: int) -> None:
    """Tells before so many ranks of this machine are started what they would stumble over.

    Raises:
        ConfigError, DataError: as `build_parts`.
    """
    device = choose_device(config.train.device, Ranks(ranks - 1, ranks, ranks - 1))
    check_precision(config, device)
    _batch_size(config, device, Ranks(0, ranks), len(load_split(config.data, "train")))


def _batch_size(config: Config, device: torch.device, ranks: Ranks, images: int) -> int:
    asked = config.train.batch_size
    automatic = (_BATCH_ON_CUDA if device.type == "cuda" else _BATCH_ON_CPU) // ranks.size * ranks.size
    size = max(ranks.size, automatic) if asked == "auto" else asked
    if size > images:
        advice = f"Give --batch-size {images}, or add images."
        raise ConfigError([f"train.batch_size = {size}: there are only {images} training images. {advice}"])
    if size % ranks.size:
        below = size // ranks.size * ranks.size
        near = " or ".join(str(n) for n in (below, below + ranks.size) if n)
        raise ConfigError(
            [f"train.batch_size = {size}: {ranks.size} ranks cannot share it equally; take {near}, or other ranks."]
        )
    return size


def _parameter_counts(step: Step) -> dict[str, int]:
    return {phase.name: sum(p.numel() for p in phase.network.parameters()) for phase in step.phases}


def _activation_bytes(step: Step, shape: ImageShape) -> int:
    """What autograd keeps of a discriminator's pass over an image and its pair and of a generator's over one, the
    larger; a second derivative keeps about as much again. By trying copies of the networks: without storage, on "meta",
    that would take no memory, but import PyTorch's compiler, a second of start-up."""
    # a normalisation that trains would ask other ranks
    generator, discriminator = (copy.deepcopy(net).eval() for net in (step.generator, step.discriminator))
    weights = {tensor.data_ptr() for net in (generator, discriminator) for tensor in net.state_dict().values()}
    device, kept = step.device, 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if tensor.data_ptr() in weights else tensor.nbytes
        return tensor

    labels = (torch.zeros(1, dtype=torch.int64, device=device),) if step.generator.conditional else ()
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        discriminator(torch.zeros(2, *shape, device=device), *(label.repeat(2) for label in labels))
        discriminators = kept * (2 if step.penalised else 1)
        kept = 0
        images = generator(torch.zeros(1, step.generator.latent_dim, device=device), *labels)
        discriminator(images, *labels)
    return max(discriminators, kept)
