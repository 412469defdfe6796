"""Builds the parts of a run from its settings: device, number format, data, networks, step."""

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
from ganctl.training.step.cuda_graph import StepRunner, find_eager_reason
from ganctl.training.step.step import Step

BATCH_ON_CUDA, BATCH_ON_CPU = 256, 64  # the batch size `auto`, as in the tutorial


@dataclass(frozen=True)
class Parts:
    """The parts of a run. In `config` every `auto` that affects the computation is resolved to a value."""

    config: Config
    device: torch.device
    precision: Precision
    class_names: tuple[str, ...]
    class_images: tuple[int, ...]  # training images of each class
    shape: ImageShape
    data_identity: dict[str, Any]  # class names, image shape and digest of the training data, as JSON
    batch_size: int  # over all ranks
    batches: Batches
    step: Step
    step_runner: StepRunner

    def describe(self, ranks: Ranks) -> dict[str, Any]:
        """Returns the numbers of the planned run, and the reason of each automatic choice."""
        parameters = _parameter_counts(self.step)
        return {
            "device": str(self.device),
            "precision": self.precision.name,
            "precision_reason": self.precision.reason,
            "cuda_graph": self.step_runner.eager_reason is None,
            "cuda_graph_reason": self.step_runner.eager_reason or "a replay costs less than launching each kernel",
            "gradients": type(self.step.objective.backend).__name__,
            "gradients_reason": self.step.objective.autograd_reason or "hand-derived gradients take fewer passes",
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
        """Estimates the memory of one rank, in bytes; runs both networks once."""
        parameters = _parameter_counts(self.step)
        # float32: weights, gradients and two Adam moments of both networks, and the EMA
        weights = 4 * (4 * sum(parameters.values()) + parameters["generator"])
        data = self.batches.device_bytes
        # saved by the larger phase for its backward pass
        activations = self.batch_size // ranks.size * _activation_bytes(self.step, self.shape)
        return {
            "state_bytes": weights,
            "data_bytes": data,
            "activation_bytes": activations,
            "memory_bytes": weights + data + activations,
        }


def build_parts(config: Config, ranks: Ranks) -> Parts:
    """Builds all parts of a run. The networks start with the same weights on every rank.

    Raises:
        ConfigError, DataError: the settings do not fit the data, the ranks or this machine.
    """
    device = choose_device(config.train.device, ranks)
    if device.type == "cuda" and ranks.size > 1:
        torch.cuda.set_device(device)  # for NCCL, and for tensors on plain "cuda"
    check_precision(config, device)
    set_tf32(config.train.tf32)
    ranks.on_first(
        lambda: len(load_split(config.data, "train"))
    )  # the first rank downloads or decodes it into the cache
    data = load_split(config.data, "train")
    identity = {"class_names": list(data.class_names), "shape": list(data.shape), "digest": data.digest()}
    if ranks.size > 1:  # machines may differ in their files and their GPUs
        ranks.assert_equal_across_ranks("the training images", identity)
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
        raise ConfigError(["train.batch_size = 1: batch normalization needs two images or more. Raise it."])
    if ranks.size > 1:
        ranks.assert_equal_across_ranks(
            "the first weights", [fingerprint(n.state_dict().values()) for n in (generator, discriminator)]
        )
    torch.manual_seed(seed + ranks.rank)  # random numbers that a custom network draws differ between ranks
    batches = Batches(
        data,
        batch_size=batch_size,
        seed=seed,
        device=device,
        rank=ranks.rank,
        ranks=ranks.size,
        on_device=config.data.on_device,
        workers=worker_count(config.data),
    )
    eager = find_eager_reason(config, device, ranks)
    step = Step(
        config, generator, discriminator, device, precision=precision, ranks=ranks, capturable=eager is None
    )  # fmt: skip
    step_runner = StepRunner(step, batches.gather, eager_reason=eager)
    counts = tuple(torch.bincount(data.labels, minlength=classes).tolist())
    names = data.class_names
    return Parts(config, device, precision, names, counts, shape, identity, batch_size, batches, step, step_runner)


def check_ranks(config: Config, ranks: int) -> None:
    """Checks the settings for a number of ranks on this machine, before the ranks are started.

    Raises:
        ConfigError, DataError: as `build_parts`.
    """
    device = choose_device(config.train.device, Ranks(ranks - 1, ranks, ranks - 1))
    check_precision(config, device)
    _batch_size(config, device, Ranks(0, ranks), len(load_split(config.data, "train")))


def _batch_size(config: Config, device: torch.device, ranks: Ranks, images: int) -> int:
    setting = config.train.batch_size
    automatic = (BATCH_ON_CUDA if device.type == "cuda" else BATCH_ON_CPU) // ranks.size * ranks.size
    size = max(ranks.size, automatic) if setting == "auto" else setting
    if size > images:
        hint = f"Give --batch-size {images}, or add images."
        raise ConfigError([f"train.batch_size = {size}: there are only {images} training images. {hint}"])
    if size % ranks.size:
        lower = size // ranks.size * ranks.size
        multiples = " or ".join(str(n) for n in (lower, lower + ranks.size) if n)
        raise ConfigError(
            [f"train.batch_size = {size}: expected a multiple of the {ranks.size} ranks. Give {multiples}."]
        )
    return size


def _parameter_counts(step: Step) -> dict[str, int]:
    return {phase.name: sum(p.numel() for p in phase.network.parameters()) for phase in step.phases}


def _activation_bytes(step: Step, shape: ImageShape) -> int:
    """Returns the bytes per image that autograd saves in the larger phase; a second derivative doubles them.

    Measured on copies of the networks: a discriminator pass over two images, a generator pass over one image. The
    device "meta" would need no memory, but it imports PyTorch's compiler, which adds a second of start-up.
    """
    # eval: batch normalization in training mode would communicate with other ranks
    generator, discriminator = (copy.deepcopy(net).eval() for net in (step.generator, step.discriminator))
    weights = {tensor.data_ptr() for net in (generator, discriminator) for tensor in net.state_dict().values()}
    device, saved = step.device, 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += 0 if tensor.data_ptr() in weights else tensor.nbytes
        return tensor

    labels = (torch.zeros(1, dtype=torch.int64, device=device),) if step.generator.conditional else ()
    random_fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with random_fork, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        discriminator(torch.zeros(2, *shape, device=device), *(label.repeat(2) for label in labels))
        discriminator_bytes = saved * (2 if step.has_gradient_penalty else 1)
        saved = 0
        images = generator(torch.zeros(1, step.generator.latent_dim, device=device), *labels)
        discriminator(images, *labels)
    return max(discriminator_bytes, saved)
