"""Where generated images come from: one small interface over a network in memory, a checkpoint, or (in exports) a file.

Images leave a source as uint8, so that scores and pictures are of what a user gets.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ganctl.training.checkpoint.format import Saved, read_checkpoint
from ganctl.training.checkpoint.stored_config import generator_settings, understood
from ganctl.training.errors import VersionError
from ganctl.training.models.base import Generator, ImageShape, to_bytes
from ganctl.training.models.build import build_generator

_CHUNK = 200  # images; larger ones fall out of a CPU's caches


class Source(Protocol):
    """Something that draws images."""

    @property
    def latent_dim(self) -> int: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        """uint8 [N, C, H, W] on the CPU for z float32 [N, latent_dim] and label int64 [N] (unused where
        unconditional)."""


class GeneratorSource:
    """A generator in memory. It is put into evaluation mode while it draws, and back afterwards."""

    def __init__(self, generator: Generator, class_names: tuple[str, ...]) -> None:
        self.generator, self.class_names = generator, class_names
        self.latent_dim, self.conditional = generator.latent_dim, generator.conditional

    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        return self._draw(lambda z, label: self.generator(*(z, label) if self.conditional else (z,)), z, label)

    @property
    def mixes_labels(self) -> bool:
        """Whether `draw_mixed` can be had: labels enter by the generator's `embedding` alone."""
        return isinstance(getattr(self.generator, "embedding", None), nn.Embedding)

    def draw_mixed(self, z: Tensor, shares: Tensor) -> Tensor:
        """Images between the classes: uint8 [N, C, H, W] for z float32 [N, latent_dim] and the classes' shares, float32
        [N, classes] with rows that sum to 1. The network is the same one; its table of embeddings has, for a moment, a
        row for each image, which is the mixture of the classes' rows."""
        assert self.mixes_labels, "ask mixes_labels first"
        table = self.generator.get_parameter("embedding.weight")

        def forward(z: Tensor, shares: Tensor) -> Tensor:
            rows = torch.arange(len(z), device=z.device)
            images: Tensor = functional_call(self.generator, {"embedding.weight": shares @ table}, (z, rows))
            return images

        return self._draw(forward, z, shares)

    @torch.inference_mode()
    def _draw(self, forward: Callable[[Tensor, Tensor], Tensor], z: Tensor, label: Tensor) -> Tensor:
        device = next(self.generator.parameters()).device
        training = self.generator.training
        self.generator.eval()
        images = []
        for chunk in zip(z.to(device).split(_CHUNK), label.to(device).split(_CHUNK), strict=True):
            images.append(to_bytes(forward(*chunk)).cpu())
        self.generator.train(training)
        return torch.cat(images)


class Truncated:
    """A source whose latents are pulled to their mean."""

    def __init__(self, source: Source, truncation: float) -> None:
        self._source, self._truncation = source, truncation
        self.latent_dim, self.conditional, self.class_names = source.latent_dim, source.conditional, source.class_names

    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        return self._source.draw(z * self._truncation, label)


def load_generator(path: Path) -> tuple[Generator, Saved]:
    """The averaged generator of a checkpoint, in evaluation mode on the CPU.

    Of the settings only those of the generator are read: others may be another version's.

    Raises:
        CheckpointError: the file is absent or damaged, or another version wrote what the generator is made of.
    """
    checkpoint = read_checkpoint(path)
    settings = generator_settings(checkpoint)
    with understood(checkpoint):
        shape, class_names = ImageShape(*checkpoint.state["data"]["shape"]), checkpoint.state["data"]["class_names"]
        weights = checkpoint.state["networks"]["ema"]
    generator = build_generator(settings, shape, len(class_names))
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        found = str(error).splitlines()[-1].strip()
        fault = f"its weights do not fit model.generator = '{settings.generator}' as it is here ({found})."
        raise VersionError(path, checkpoint.version, [fault]) from error
    return generator.eval().requires_grad_(False), checkpoint
