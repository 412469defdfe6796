"""Samples the images of a request from a local source: a run, a checkpoint or an export."""

import numpy as np
import torch

from ganctl.common.latents import draw_labels, latents
from ganctl.training.images.source import Source
from ganctl.training.sampling.request import SampleBatch, SampleRequest, SampleRequestError, max_batch_images
from ganctl.training.sampling.samplers import Labels, Pixels


class LocalSampler:
    """Samples from a source, with the same latents and labels as the service for the same seed."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def check(self, request: SampleRequest) -> None:
        """Raises SampleRequestError if the generator is unconditional or lacks a class."""
        flag, names = request.class_flag, self.source.class_names
        if flag and not self.source.conditional:
            raise SampleRequestError(f"{flag}: this generator is unconditional. Leave {flag} out")
        unknown = [name for name in request.class_names if name not in names]
        if unknown:
            raise SampleRequestError(f"{flag} {unknown[0]!r}: expected one of {', '.join(names)}")

    def count_classes(self) -> int:
        """Number of classes."""
        return len(self.source.class_names)

    def max_images(self) -> int:
        """Largest number of images of a batch, as a server of this model has it."""
        label = torch.zeros(1, dtype=torch.int64)
        return max_batch_images(self.source.generate(torch.zeros(1, self.source.latent_dim), label).numel())

    def class_name(self, label: int) -> str:
        """Name of a class."""
        return self.source.class_names[label]

    def class_index(self, cls: int | str) -> int:
        """Index of a class that is given by its index or its name."""
        return cls if isinstance(cls, int) else self.source.class_names.index(cls)

    def sample(self, batch: SampleBatch, truncation: float) -> tuple[Pixels, Labels | None]:
        """Samples the images of a batch; see `Sampler.sample`."""
        classes = np.array([self.class_index(cls) for cls in batch.text or batch.classes], np.int64)
        num_images = batch.count * len(batch.text or " ")
        label = np.resize(classes, num_images) if len(classes) else self.labels(batch.seed, batch.count)
        z = self.batch_latents(batch, truncation)
        images = self.source.generate(z, torch.from_numpy(label)).permute(0, 2, 3, 1).numpy()
        return images, label if self.source.conditional else None

    def batch_latents(self, batch: SampleBatch, truncation: float) -> torch.Tensor:
        """Latents of the images of a batch, float32 [N, latent_dim]; equal for all images of a text."""
        return self.latents(batch.seed, batch.count, truncation).repeat_interleave(len(batch.text or " "), dim=0)

    def latents(self, seed: int, count: int, truncation: float) -> torch.Tensor:
        """Latents of a seed, multiplied by `truncation`: float32 [count, latent_dim]."""
        return torch.from_numpy(latents(seed, count, self.source.latent_dim) * np.float32(truncation))

    def labels(self, seed: int, count: int) -> Labels:
        """Random labels of a seed, int64 [count]."""
        return draw_labels(seed, count, len(self.source.class_names))
