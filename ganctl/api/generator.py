"""A generator of images that `load` has opened: draws, walks, decodes and encodes."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ganctl.api.arguments import Classes, Labels, check_integer, to_latents
from ganctl.api.images import Encoding, GeneratedImages, ImagesLike, psnr, read_images, squeeze
from ganctl.common.latents import MAX_SEED
from ganctl.training.sampling.request import (
    DEFAULT_KEYFRAMES,
    FRAMES_PER_KEYFRAME,
    SampleBatch,
    SampleRequest,
    SampleRequestError,
)
from ganctl.training.sampling.samplers import sample_images
from ganctl.training.sampling.server_sampler import ServerSampler

if TYPE_CHECKING:
    from ganctl.training.images.inversion import Inverter
    from ganctl.training.sampling.local_sampler import LocalSampler


class ImageGenerator:
    """A generator of images; `load` opens it.

    Equal models, seeds and arguments give equal images (within one gray level) from a run, its export, its archive and
    its server, and those of `ganctl sample`.

    Attributes:
        source: path or URL.
        version: of the model, as in the manifest of its export and in each reply of its server.
        class_names: names of the classes; empty if the generator is unconditional.
        latent_dim: size of a latent; None for a server.
    """

    def __init__(
        self,
        source: str,
        sampler: "LocalSampler | ServerSampler",
        *,
        class_names: tuple[str, ...],
        version: str,
        open_inverter: "Callable[[], Inverter] | None" = None,
    ) -> None:
        """Stores the parts of an opened source; use `load`.

        Args:
            source: path or URL, for messages.
            sampler: samples images.
            class_names: names of the classes.
            version: of the model.
            open_inverter: opens the differentiable generator, or raises ValueError; None for a server.
        """
        self.source, self.version, self.class_names = source, version, class_names
        self.latent_dim = None if isinstance(sampler, ServerSampler) else sampler.source.latent_dim
        self._sampler, self._open_inverter, self._classes = sampler, open_inverter, Classes(class_names)

    def __repr__(self) -> str:
        classes = f"{len(self.class_names)} classes" if self.conditional else "unconditional"
        return f"<ImageGenerator {self.source}: {classes}, version {self.version}>"

    @property
    def conditional(self) -> bool:
        """True if the generator draws images of given labels."""
        return bool(self.class_names)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image as in `GeneratedImages.images`: (H, W), (H, W, 3) or (H, W, 4)."""
        image, _ = self._sampler.sample(SampleBatch(seed=0, count=1), truncation=1.0)
        return squeeze(image[0]).shape

    def sample(
        self,
        labels: Labels | None = None,
        *,
        text: str | None = None,
        count: int | None = None,
        seed: int | None = None,
        truncation: float = 1.0,
    ) -> GeneratedImages:
        """Draws images.

        Args:
            labels: one label or several, repeated in turn up to `count`; None: drawn from the seed.
            text: a string of classes whose names are single characters, drawn from one latent, in place of `labels`.
            count: number of images, or of repetitions of `text`; None: as many as labels, or 1.
            seed: 0 to 2⁵³ − 1; None: a random one, which the result holds.
            truncation: 0 to 1, scale of the latents; lower values give cleaner and more similar images.

        Raises:
            ValueError: an argument is invalid; the message names it.
            RemoteError: the server does not reply, or refuses the request.
        """
        request = self._classes.request(labels, text, count, seed, truncation)
        try:
            result = sample_images(request, self._sampler)
        except SampleRequestError as error:
            raise ValueError(str(error).removeprefix("--")) from error
        z = None
        if not isinstance(self._sampler, ServerSampler):
            batches = replace(request, seed=result.seed).batches(0, self._sampler.max_images())
            z = np.concatenate([self._sampler.batch_latents(batch, truncation).numpy() for batch in batches])
        images = squeeze(result.images)
        return GeneratedImages(images, labels=result.labels, z=z, seed=result.seed, columns=result.columns)

    def walk(
        self,
        labels: Labels | None = None,
        *,
        text: str | None = None,
        count: int | None = None,
        z: ArrayLike | None = None,
        frames: int | None = None,
        seed: int | None = None,
        truncation: float = 1.0,
    ) -> GeneratedImages:
        """Draws the frames of a closed walk through latent space: from each keyframe to the next, and to the first.

        Several labels, or a `text`, share one latent, and each repetition has another one. A walk between two classes
        mixes the embeddings of their labels. That needs a run or a checkpoint; other sources walk through the images of
        one label.

        Args:
            labels: labels of the keyframes.
            text: in place of `labels`, as for `sample`.
            count: number of keyframes; None: as many as labels, or 8.
            z: latents of the keyframes, [K, latent_dim], in place of `count` and `seed`: of an `Encoding`, for example.
            frames: number of frames; None: 24 per keyframe.
            seed: as for `sample`.
            truncation: as for `sample`.

        Raises:
            ValueError: an argument is invalid, or the source cannot mix labels; the message names the argument.
            RemoteError: the server does not reply, or refuses the request.
        """
        if frames is not None:
            check_integer("frames", frames, 2)
        if z is not None:
            if (text, count, seed, truncation) != (None, None, None, 1.0):
                raise ValueError("z: found text, count, seed or truncation as well, expected labels alone.")
            return self._walk_latents(z, labels, frames)
        request = self._classes.request(labels, text, count, seed, truncation)
        if isinstance(self._sampler, ServerSampler):
            return self._walk_on_server(self._sampler, request, frames)
        from ganctl.training.sampling.animation import sample_keyframes

        latents, label, first_seed = sample_keyframes(request, self._sampler)
        walk = self._walk_latents(latents.numpy(), label.numpy() if self.conditional else None, frames)
        return replace(walk, seed=first_seed)

    def decode(self, z: ArrayLike, labels: Labels | None = None) -> GeneratedImages:
        """Generates the images of latents.

        Args:
            z: latents, [N, latent_dim] or [latent_dim].
            labels: one label for all images or one for each; None if the generator is unconditional.

        Raises:
            ValueError: an argument is invalid, or the source is a server.
        """
        import torch

        source = self._local_sampler("decode").source
        latents = to_latents(z, source.latent_dim)
        label = self._classes.indices(labels, len(latents))
        images = source.generate(torch.from_numpy(latents), torch.from_numpy(label)).permute(0, 2, 3, 1).numpy()
        return GeneratedImages(squeeze(images), labels=label if self.conditional else None, z=latents)

    def encode(self, images: ImagesLike, labels: Labels | None = None, *, steps: int = 200, seed: int = 0) -> Encoding:
        """Finds the latents whose images are nearest to given images, by gradient descent (GAN inversion).

        It needs the gradients of the generator: a run, a checkpoint, or an export or archive with TorchScript.
        A run's discriminator may predict where to start; then fewer steps suffice.

        Args:
            images: Pillow images, or an array [N, H, W], [N, H, W, C] or [N, C, H, W], uint8 or floats from 0 to 1; or
                one such image.
            labels: one label for all images or one for each; None: unknown, and found as well.
            steps: number of gradient steps.
            seed: of the random latents that the search starts from where there is no prediction.

        Raises:
            ValueError: an argument is invalid, or the source gives no gradients.
        """
        source = self._local_sampler("encode").source
        check_integer("steps", steps, 1)
        check_integer("seed", seed, 0, MAX_SEED)
        import torch

        from ganctl.training.data.base import premultiply

        targets = premultiply(torch.from_numpy(read_images(images, self.shape)).permute(0, 3, 1, 2))
        given = None if labels is None else torch.from_numpy(self._classes.indices(labels, len(targets)))
        z, found = self._inverter(targets, given, steps=steps, seed=seed)
        generated = source.generate(z, found)
        return Encoding(
            squeeze(generated.permute(0, 2, 3, 1).numpy()),
            labels=found.numpy() if self.conditional else None,
            z=z.numpy(),
            psnr=psnr(premultiply(generated).numpy(), targets.numpy()),
        )

    @cached_property
    def _inverter(self) -> "Inverter":
        assert self._open_inverter is not None, "encode rejects servers"
        return self._open_inverter()

    def _local_sampler(self, argument: str) -> "LocalSampler":
        """Returns the sampler. Raises ValueError if the source is a server."""
        if not isinstance(self._sampler, ServerSampler):
            return self._sampler
        found = f"{self.source} is a server, which takes no latents"
        raise ValueError(f"{argument}: {found}, expected a run, a checkpoint or an export. Load one of them.")

    def _walk_latents(self, z: ArrayLike, labels: Labels | None, frames: int | None) -> GeneratedImages:
        import torch

        from ganctl.training.sampling.animation import WalkError, walk_images

        source = self._local_sampler("z").source
        latents = to_latents(z, source.latent_dim)
        label = self._classes.indices(labels, len(latents))
        try:
            images = walk_images(source, torch.from_numpy(latents), torch.from_numpy(label), frames)
        except WalkError as error:
            argument, remedy = {
                "keyframes": ("walk", "Give other labels, or a larger count or truncation"),
                "frames": (f"frames {frames}", "Take more frames"),
                "labels": ("labels", "Load a run, or name one label to walk through its styles"),
            }[error.cause]
            raise ValueError(f"{argument}: {error}. {remedy}.") from error
        return GeneratedImages(squeeze(images))

    def _walk_on_server(self, sampler: ServerSampler, request: SampleRequest, frames: int | None) -> GeneratedImages:
        names = request.class_names
        if len(names) != self.conditional:
            found = f"found {len(names)}, expected one, because a server cannot mix labels"
            raise ValueError(f"labels: {found}. Name one label to walk through its styles, or load a run.")
        if request.truncation == 0:
            raise ValueError("walk: found truncation 0, whose images are equal. Give a larger truncation.")
        keyframes = request.count or DEFAULT_KEYFRAMES
        seed = secrets.randbelow(2**52) if request.seed is None else request.seed
        images = sampler.walk(
            names[0] if names else None,
            keyframes=keyframes,
            frames=frames or FRAMES_PER_KEYFRAME * keyframes,
            seed=seed,
            truncation=request.truncation,
        )
        return GeneratedImages(squeeze(images), seed=seed)
