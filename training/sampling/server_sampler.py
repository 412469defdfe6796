"""Samples the images of a request from a server. Importing this module does not import torch."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageSequence

from ganctl.training.sampling.request import SampleBatch, SampleRequest
from ganctl.training.sampling.samplers import Labels, Pixels

if TYPE_CHECKING:  # training imports no code of serving: the caller passes the client
    from ganctl.serving.client.client import Client


class ServerSampler:
    """Samples from a server, which checks the request itself.

    Classes are sent by name: a class that is named 2 need not have the index 2.
    """

    def __init__(self, client: "Client") -> None:
        self._client, self._max_images = client, 0

    def check(self, request: SampleRequest) -> None:
        """Does nothing: the server checks the request."""

    def count_classes(self) -> int:
        """Number of classes of the server's model."""
        return self._client.count_classes()

    def max_images(self) -> int:
        """Largest number of images that the server draws for one request."""
        self._max_images = self._max_images or self._client.max_count()
        return self._max_images

    def class_name(self, label: int) -> str:
        """Name of a class for messages; the client knows only its index."""
        return f"number {label}"

    def sample(self, batch: SampleBatch, truncation: float) -> tuple[Pixels, Labels | None]:
        """Samples the images of a batch; see `Sampler.sample`."""
        images, labels, _ = self._client.sample(
            digits=[cls for cls in batch.classes if isinstance(cls, int)] or None,
            labels=[cls for cls in batch.classes if isinstance(cls, str)] or None,
            text=batch.text,
            count=batch.count,
            seed=batch.seed,
            truncation=truncation,
        )
        return images if images.ndim == 4 else images[..., None], None if (labels < 0).any() else labels

    def walk(self, label: str | None, *, keyframes: int, frames: int, seed: int, truncation: float) -> Pixels:
        """Draws the frames of a closed walk through the images of one class: uint8 [frames, H, W, C].

        Args:
            label: name of the class; None for an unconditional model.
            keyframes: number of images that the walk passes.
            frames: number of frames.
            seed: of the latents of the keyframes.
            truncation: scale of the latents.
        """
        fields = {"labels": label, "count": keyframes, "frames": frames, "seed": seed, "truncation": truncation}
        animation = self._client.picture(media="image/webp", **fields)
        pixels, durations = [], []
        one_image, _ = self.sample(SampleBatch(seed, 1), truncation)
        channels = one_image.shape[-1]
        with Image.open(io.BytesIO(animation)) as file:
            for frame in ImageSequence.Iterator(file):
                pixels.append(np.asarray(frame.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])))
                # the format joins equal frames to a longer one, and all to a still without a duration
                durations.append(frame.info["duration"] or 1)
        repeats = np.array(durations) * frames // sum(durations)
        return np.repeat(np.stack(pixels), repeats, axis=0).reshape(frames, *one_image.shape[1:])
