"""The networks of Lucic et al. 2018, "Are GANs Created Equal? A Large-Scale Study" (arXiv:1711.10337, appendix): those
of InfoGAN (Chen et al. 2016, arXiv:1606.03657), unconditional, for `configs/ns-gan.toml` and `configs/wgan-gp.toml`.

Details from the authors' code (google/compare_gan, `gans/abstract_gan.py`, `gans/ops.py`): leaky ReLU (0.2) in both
networks, weights from N(0, 0.02²), biases at 0, z of length 64. Departures: images in [−1, 1] by tanh where they
have [0, 1] by a sigmoid, since our trainer scales pixels so; z is normal, not uniform; batch normalisation has
PyTorch's memory of ten batches, not their thousand, which would never fill in a short run.
"""

from typing import cast

from torch import Tensor, nn

from ganctl.training.config.schema import ModelSettings
from ganctl.training.models import base as models
from ganctl.training.models.base import ImageShape

_LEAK = 0.2


class Generator(models.Generator):
    """z → 1024 → 128·7·7 → 64·14·14 → 1·28·28, batch normalised but for the last layer."""

    def __init__(self, settings: ModelSettings, shape: ImageShape, classes: int | None) -> None:
        super().__init__(settings.latent_dim, classes, shape)
        start = (128, shape.height // 4, shape.width // 4)
        size = start[0] * start[1] * start[2]
        self.net = nn.Sequential(
            *(nn.Linear(settings.latent_dim, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(_LEAK)),
            *(nn.Linear(1024, size), nn.BatchNorm1d(size), nn.LeakyReLU(_LEAK), nn.Unflatten(1, start)),
            *(nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(_LEAK)),
            *(nn.ConvTranspose2d(64, shape.channels, 4, stride=2, padding=1), nn.Tanh()),
        )
        self.apply(_begin)

    def forward(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.net(z))


class Discriminator(nn.Module):
    """1·28·28 → 64·14·14 → 128·7·7 → 1024 → logit. The option `batch_norm` normalises the middle layers; with a
    gradient penalty there is no normalisation."""

    def __init__(self, settings: ModelSettings, shape: ImageShape, classes: int | None) -> None:
        super().__init__()
        normal = bool(settings.options.get("batch_norm", False))
        size = 128 * (shape.height // 4) * (shape.width // 4)
        self.net = nn.Sequential(
            *(nn.Conv2d(shape.channels, 64, 4, stride=2, padding=1), nn.LeakyReLU(_LEAK)),
            nn.Conv2d(64, 128, 4, stride=2, padding=1),
            *([nn.BatchNorm2d(128)] if normal else []),
            *(nn.LeakyReLU(_LEAK), nn.Flatten(), nn.Linear(size, 1024)),
            *([nn.BatchNorm1d(1024)] if normal else []),
            *(nn.LeakyReLU(_LEAK), nn.Linear(1024, 1), nn.Flatten(0)),
        )
        self.apply(_begin)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net(images))


def _begin(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, std=0.02)
        assert layer.bias is not None, "every layer here has one"
        nn.init.zeros_(layer.bias)
