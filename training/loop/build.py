"""Builds the parts of a run from its settings: device, number format, data, networks, step."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.config.schema import Config
from ganctl.training.data.base import ImageSet
from ganctl.training.data.cache import worker_count
from ganctl.training.data.datasets import find_license, load_split
from ganctl.training.data.loader import Batches
from ganctl.training.device.precision import Precision, check_precision, choose_precision, set_tf32
from ganctl.training.device.threads import limit_threads
from ganctl.training.distributed.ranks import Ranks, choose_device, fingerprint, preserve_random_states
from ganctl.training.errors import ConfigError, TrainingError
from ganctl.training.loop.precision_trial import fastest_on_cpu
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.cuda_graph import StepRunner, find_eager_reason
from ganctl.training.step.step import Step

BATCH_ON_CUDA, BATCH_ON_CPU = 256, 64  # what `train.batch_size = "auto"` means, as in the Lightning tutorial
_USABLE_MEMORY = 0.9  # share of a device's memory that the estimate may take


@dataclass(frozen=True)
class Parts:
    """The parts of a run. In `config`, the batch size and the precision are values, not `auto`."""

    config: Config
    ranks: Ranks
    device: torch.device
    precision: Precision
    class_names: tuple[str, ...]
    class_images: tuple[int, ...]  # training images of each class
    data_identity: dict[str, Any]  # class names, image shape and digest of the training data, as JSON
    batch_size: int  # over all ranks
    batches: Batches
    step: Step
    step_runner: StepRunner

    def describe(self) -> dict[str, Any]:
        """Returns the numbers of the planned run, and the reason of each automatic choice."""
        parameters = {phase.name: sum(p.numel() for p in phase.network.parameters()) for phase in self.step.phases}
        return {
            "device": str(self.device),
            "precision": self.precision.name,
            "precision_reason": self.precision.reason,
            "cuda_graph": self.step_runner.eager_reason is None,
            "cuda_graph_reason": self.step_runner.eager_reason or "a replay costs less than launching each kernel",
            "gradients": type(self.step.objective.backend).__name__,
            "gradients_reason": self.step.objective.autograd_reason or "hand-derived gradients take fewer passes",
            "ranks": self.ranks.size,
            "generator_parameters": parameters["generator"],
            "discriminator_parameters": parameters["discriminator"],
            "training_images": self.batches.size,
            "classes": [
                {"name": name, "images": images}
                for name, images in zip(self.class_names, self.class_images, strict=True)
            ],
            "batch_size": self.batch_size,
            "batch_size_per_rank": self.batch_size // self.ranks.size,
            "steps_per_epoch": self.batches.per_epoch,
        }

    def estimate_memory(self) -> dict[str, int]:
        """Estimates the memory of one rank, in bytes; runs both networks once."""
        facts = self.describe()
        generator, discriminator = facts["generator_parameters"], facts["discriminator_parameters"]
        estimate = {
            # float32: weights, gradients and two Adam moments of both networks, and the EMA
            "state_bytes": 4 * (5 * generator + 4 * discriminator),
            "data_bytes": self.batches.device_bytes,
            # saved by the larger phase for its backward pass
            "activation_bytes": facts["batch_size_per_rank"] * _activation_bytes(self.step),
        }
        return estimate | {"memory_bytes": sum(estimate.values())}

    def out_of_memory(self, memory: int) -> TrainingError:
        """Returns the error of a step that needs more than the `memory` bytes of a device; it names a batch that fits.

        The estimate leaves out the working memory of libraries. So a tenth is kept free, and a batch that fits is at
        most half of the one that did not.
        """
        estimate, per_rank = self.estimate_memory(), self.batch_size // self.ranks.size
        free = int(_USABLE_MEMORY * memory) - estimate["state_bytes"] - estimate["data_bytes"]
        fitting = min(per_rank // 2, max(0, free) // max(1, estimate["activation_bytes"] // per_rank))
        found = f"train.batch_size = {self.batch_size}: the GPU's memory of {memory / 2**30:.1f} GiB is too small"
        if not fitting:
            return TrainingError(f"{found} for any batch. Lower data.size or model.base_channels")
        fitting = self.ranks.size * (1 << (fitting.bit_length() - 1))  # a power of two on each rank
        return TrainingError(f"{found}; about {fitting} images fit. Set train.batch_size={fitting}")


def build_parts(config: Config, ranks: Ranks) -> Parts:
    """Builds all parts of a run. The networks start with the same weights on every rank.

    Raises:
        ConfigError, DataError: the settings do not fit the data, the ranks or this machine.
    """
    limit_threads()
    device = choose_device(config.train.device, ranks)
    if device.type == "cuda" and ranks.size > 1:
        torch.cuda.set_device(device)  # for NCCL, and for tensors on plain "cuda"
    check_precision(config, device)
    set_tf32(config.train.tf32)
    loaded: list[ImageSet] = []
    ranks.run_on_main(lambda: loaded.append(load_split(config.data, "train")))  # fills the cache for the other ranks
    data = loaded[0] if loaded else load_split(config.data, "train")
    identity = {"class_names": list(data.class_names), "shape": list(data.shape), "digest": data.digest()}
    ranks.assert_equal_across_ranks("the training images", identity)  # machines may have different files
    # a generator of unlabeled images has no label
    model = config.model.model_copy(update={"conditional": config.model.conditional and bool(data.class_names)})
    described = config.data.model_copy(update={"license": find_license(config.data)})
    config = config.model_copy(update={"model": model, "data": described})
    batch_size = _batch_size(config, device, ranks, len(data))
    precision = choose_precision(
        config, device, fastest_on_cpu=lambda: fastest_on_cpu(config, data, batch=batch_size // ranks.size, ranks=ranks)
    )
    ranks.assert_equal_across_ranks("train.precision", precision.name)  # machines may have different GPUs
    train = config.train.model_copy(update={"batch_size": batch_size, "precision": precision.name})
    config = config.model_copy(update={"train": train})
    seed, shape, classes = config.train.seed, ImageShape(*data.shape), data.num_classes
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
        workers=worker_count(config.data, share=0.5),
        balance=config.data.balance,
    )
    eager = find_eager_reason(config, device, ranks)
    step = Step(
        config,
        generator,
        discriminator,
        device,
        precision=precision,
        ranks=ranks,
        capturable=eager is None,
        held_out=load_split(config.data, "val") if config.augment.probability == "adaptive" else None,
    )
    step_runner = StepRunner(step, batches.gather, eager_reason=eager)
    names = data.class_names
    counts = tuple(torch.bincount(data.labels, minlength=classes).tolist())[: len(names)]
    return Parts(config, ranks, device, precision, names, counts, identity, batch_size, batches, step, step_runner)


def check_ranks(config: Config, ranks: int) -> None:
    """Checks that the settings fit a number of ranks on this machine, before the ranks are started.

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
        raise ConfigError([f"train.batch_size = {size}: expected a multiple of {ranks.size} ranks. Give {multiples}."])
    return size


def _activation_bytes(step: Step) -> int:
    """Returns the bytes per image that autograd saves in the larger phase; a second derivative doubles them.

    Measured on copies of the networks: a discriminator pass over two images, a generator pass over one image. The
    device "meta" would need no memory, but it imports PyTorch's compiler, which adds a second of start-up.
    """
    # eval: batch normalization in training mode would communicate with other ranks
    generator, discriminator = (copy.deepcopy(net).eval() for net in (step.generator, step.discriminator))
    project, projection = step.objective.project, step.objective.projection
    networks = [generator, discriminator, *([] if projection is None else [projection])]
    weights = {tensor.data_ptr() for net in networks for tensor in net.state_dict().values()}
    device, saved = step.device, 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += 0 if tensor.data_ptr() in weights else tensor.nbytes
        return tensor

    labels = (torch.zeros(1, dtype=torch.int64, device=device),) if step.generator.conditional else ()
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with preserve_random_states(device), hooks:
        real = project(torch.zeros(2, *step.generator.shape, device=device))
        discriminator(real, *(label.repeat(2) for label in labels))
        discriminator_bytes = saved * (2 if step.has_gradient_penalty else 1)
        saved = 0
        images = generator(torch.zeros(1, step.generator.latent_dim, device=device), *labels)
        discriminator(project(images), *labels)
    return max(discriminator_bytes, saved)
