"""GAN inversion: finds latents and labels whose images are nearest to given images, by gradient descent.

The descent on the squared error starts at a predicted latent (Zhu et al. 2016, arXiv:1609.03552, section 4). The
prediction is that of the discriminator's latent head, which `loss.latent_reconstruction` trains. Without it, short
trials from several random latents choose the start. docs/python.md has the measurements.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ganctl.common.latents import latents
from ganctl.training.checkpoint.format import LoadedCheckpoint
from ganctl.training.checkpoint.stored_config import model_settings
from ganctl.training.errors import TrainingError
from ganctl.training.models.base import Discriminator, Generator, exposes_features
from ganctl.training.models.build import build_discriminator

Render = Callable[[Tensor, Tensor], Tensor]
"""Maps z, float32 [N, D], and labels, int64 [N], to images, float32 [N, C, H, W] in [0, 1]; differentiable in z.

Colors are multiplied with alpha. The labels are ignored if the generator is unconditional.
"""

_LR = 0.1
_BETAS = (0.9, 0.9)  # the squared gradient falls by orders of magnitude, and Adam's 0.999 would remember it
_RANDOM_STARTS = 4
_START_STD = 0.3  # of the random starts; from 1, latents end farther from those of the prior
_TRIAL_STEPS = 25
_CHUNK = 256  # latents; larger chunks do not fit into a CPU's caches


class Inverter:
    """Inverts a generator. Image i's result depends neither on the other images nor on their number."""

    def __init__(self, render: Render, latent_dim: int, classes: int, heads: Discriminator | None = None) -> None:
        """Stores the networks.

        Args:
            render: the generator.
            latent_dim: size of a latent.
            classes: number of classes; 0 if the generator is unconditional.
            heads: predicts the latent and the class of an image; None to try random latents and all classes.
        """
        self._render, self._latent_dim, self._classes = render, latent_dim, classes
        self._heads = heads

    @torch.enable_grad()
    def __call__(self, images: Tensor, labels: Tensor | None, *, steps: int, seed: int) -> tuple[Tensor, Tensor]:
        """Finds the latents of images.

        Args:
            images: uint8 [N, C, H, W]; colors multiplied with alpha.
            labels: int64 [N]; None if they are unknown, or the generator is unconditional.
            steps: number of gradient steps.
            seed: of the random latents.

        Returns:
            Latents, float32 [N, latent_dim], and labels, int64 [N] (zeros if the generator is unconditional).
        """
        if labels is None and not self._classes:
            labels = torch.zeros(len(images), dtype=torch.int64)
        found = list(self._chunks(images.float() / 255, labels, steps, seed))
        return torch.cat([z for z, _ in found]), torch.cat([label for _, label in found])

    def _chunks(self, images: Tensor, labels: Tensor | None, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        starts = 1 if self._heads is not None else _RANDOM_STARTS if labels is not None else self._classes
        size = max(1, _CHUNK // starts)
        noise = torch.from_numpy(latents(seed, len(images) * _RANDOM_STARTS, self._latent_dim)) * _START_STD
        noise = noise.unflatten(0, (len(images), _RANDOM_STARTS))
        for i in range(0, len(images), size):
            part = slice(i, i + size)
            given = None if labels is None else labels[part]
            if self._heads is not None:
                z, chosen = self._predict(self._heads, images[part], given)
            else:
                z, chosen = self._try_starts(images[part], given, noise[part])
            yield self._descend(images[part], z, chosen, steps), chosen

    def _predict(self, heads: Discriminator, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Predicts the latents, [N, D], and the unknown labels, [N]."""
        assert heads.latent is not None
        with torch.no_grad():
            features = heads.features(images * 2 - 1)
            if labels is None:
                assert heads.classifier is not None
                labels = heads.classifier(features).argmax(dim=1)
            return heads.latent(features), labels

    def _try_starts(self, images: Tensor, labels: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Takes a few steps from each start, and returns the latents, [N, D], and labels, [N], of the nearest images.

        Args:
            images: [N, C, H, W].
            labels: [N]; None: the starts are one latent with each class.
            noise: latents, [N, _RANDOM_STARTS, D].
        """
        n = len(images)
        if labels is None:
            z = noise[:, :1].expand(-1, self._classes, -1).flatten(0, 1)
            labels = torch.arange(self._classes).repeat(n)
        else:
            z, labels = noise.flatten(0, 1), labels.repeat_interleave(_RANDOM_STARTS)
        starts = len(z) // n
        targets = images.repeat_interleave(starts, dim=0)
        z = self._descend(targets, z, labels, _TRIAL_STEPS)
        with torch.no_grad():
            best = self._errors(targets, z, labels).unflatten(0, (n, starts)).argmin(dim=1)
        rows = torch.arange(n) * starts + best
        return z[rows], labels[rows]

    def _descend(self, images: Tensor, z: Tensor, labels: Tensor, steps: int) -> Tensor:
        """Minimizes the squared errors by Adam with a ramp of the learning rate; returns the latents, [N, D]."""
        z = z.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=_LR, betas=_BETAS)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _LR * _ramp((step + 1) / steps)
            (z.grad,) = torch.autograd.grad(self._errors(images, z, labels).sum(), z)
            optimizer.step()
        return z.detach()

    def _errors(self, images: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """Sums of squared errors, [N]."""
        return (self._render(z, labels) - images).square().flatten(1).sum(dim=1)


def _ramp(t: float) -> float:
    """Learning rate at the fraction t of the steps: up at the start, down in the second half.

    The ramp of StyleGAN2's projector (Karras et al. 2020, arXiv:1912.04958, appendix D). The start keeps the prediction
    from being lost to Adam's first steps, which are the largest.
    """
    return min(1.0, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.5)))


def render_with(generator: Generator) -> Render:
    """Makes a generator in evaluation mode a `Render`."""

    def render(z: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = generator(z, labels) if generator.conditional else generator(z)
        return (images + 1) / 2

    return render


def load_heads(checkpoint: LoadedCheckpoint, generator: Generator) -> Discriminator | None:
    """Loads the discriminator of a checkpoint, if it predicts latents and, for a conditional generator, labels.

    Returns:
        The discriminator in evaluation mode; None if it has no such heads, or cannot be built in this process.
    """
    try:
        network = build_discriminator(model_settings(checkpoint), generator.shape, generator.classes or 0)
        network.load_state_dict(checkpoint.state["networks"]["discriminator"])
    except (TrainingError, LookupError, RuntimeError):  # of another version, or of a module that is absent here
        return None
    if not exposes_features(network) or network.latent is None:
        return None
    if generator.conditional and network.classifier is None:
        return None
    return network.eval().requires_grad_(False)
