"""Sources of generated images: one interface for a generator in memory, a checkpoint, or an exported file.

A source returns uint8 images, so that scores and pictures are made from the pixels that a user gets.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ganctl.training.checkpoint.format import LoadedCheckpoint, read_checkpoint
from ganctl.training.checkpoint.stored_config import generator_settings, version_errors
from ganctl.training.device.turns import in_turns
from ganctl.training.errors import VersionError
from ganctl.training.models.base import Generator, ImageShape, to_bytes
from ganctl.training.models.build import build_generator

_CHUNK = 200  # images; larger chunks do not fit into a CPU's caches


class Source(Protocol):
    """An object that generates images from latents and labels."""

    @property
    def latent_dim(self) -> int: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        """Generates images, uint8 [N, C, H, W] on the CPU.

        Args:
            z: latents, float32 [N, latent_dim].
            label: labels, int64 [N]; ignored if the generator is unconditional.
        """


class GeneratorSource:
    """A generator in memory; it runs in evaluation mode and returns to its mode afterwards."""

    def __init__(self, generator: Generator, class_names: tuple[str, ...]) -> None:
        self.generator, self.class_names = generator, class_names
        self.latent_dim, self.conditional = generator.latent_dim, generator.conditional

    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        """Generates images; see `Source.generate`."""
        return self._generate(lambda z, label: self.generator(*(z, label) if self.conditional else (z,)), z, label)

    @property
    def can_mix_labels(self) -> bool:
        """True if the generator reads labels through its `embedding` only, as `generate_mixed` requires."""
        return isinstance(getattr(self.generator, "embedding", None), nn.Embedding)

    def generate_mixed(self, z: Tensor, weights: Tensor) -> Tensor:
        """Generates images between the classes, uint8 [N, C, H, W] on the CPU.

        The embedding table is temporarily replaced by one row per image: the weighted mean of the class embeddings.

        Args:
            z: latents, float32 [N, latent_dim].
            weights: class weights, float32 [N, classes]; each row sums to 1.
        """
        assert self.can_mix_labels, "check can_mix_labels first"
        table = self.generator.get_parameter("embedding.weight")

        def forward(z: Tensor, weights: Tensor) -> Tensor:
            rows = torch.arange(len(z), device=z.device)
            images: Tensor = functional_call(self.generator, {"embedding.weight": weights @ table}, (z, rows))
            return images

        return self._generate(forward, z, weights)

    @torch.inference_mode()
    def _generate(self, forward: Callable[[Tensor, Tensor], Tensor], z: Tensor, label: Tensor) -> Tensor:
        device = next(self.generator.parameters()).device
        training = self.generator.training
        self.generator.eval()
        chunks = zip(z.to(device).split(_CHUNK), label.to(device).split(_CHUNK), strict=True)
        images = [to_bytes(forward(*chunk)).cpu() for chunk in in_turns(chunks)]
        self.generator.train(training)
        return torch.cat(images)


def load_generator(path: Path) -> tuple[Generator, LoadedCheckpoint]:
    """Loads the EMA generator of a checkpoint, in evaluation mode on the CPU.

    Only the settings of the generator are read: the others may be those of another version.

    Raises:
        CheckpointError: the file is absent or damaged, or another version wrote the parts of the generator.
    """
    checkpoint = read_checkpoint(path)
    settings = generator_settings(checkpoint)
    with version_errors(checkpoint):
        shape, class_names = ImageShape(*checkpoint.state["data"]["shape"]), checkpoint.state["data"]["class_names"]
        weights = checkpoint.state["networks"]["ema"]
    generator = build_generator(settings, shape, len(class_names))
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        message = f"its weights do not fit model.generator = '{settings.generator}' of this version ({reason})."
        raise VersionError(path, checkpoint.version, [message]) from error
    return generator.eval().requires_grad_(False), checkpoint
