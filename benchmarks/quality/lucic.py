"""Networks of Lucic et al. 2018, "Are GANs Created Equal? A Large-Scale Study" (arXiv:1711.10337, appendix).

They are those of InfoGAN (Chen et al. 2016, arXiv:1606.03657), unconditional; `configs/ns-gan.toml` and
`configs/wgan-gp.toml` use them. Details from the authors' code (google/compare_gan, `gans/abstract_gan.py`,
`gans/ops.py`): leaky ReLU (0.2) in both networks, weights from N(0, 0.02²), biases 0, z of length 64. Departures: tanh
images in [−1, 1] instead of sigmoid images in [0, 1], as our trainer scales pixels; z is normal, not uniform; the
running statistics of batch normalization average about 10 batches (PyTorch's default) instead of 1000, because a short
run is over before those settle.
"""

from typing import cast

from torch import Tensor, nn

from ganctl.training.config.schema import ModelSettings
from ganctl.training.models import base as models
from ganctl.training.models.base import ImageShape

_LEAK = 0.2


class Generator(models.Generator):
    """z → 1024 → 128·7·7 → 64·14·14 → 1·28·28, with batch normalization except after the last layer."""

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
        self.apply(_init_weights)

    def forward(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.net(z))


class Discriminator(nn.Module):
    """1·28·28 → 64·14·14 → 128·7·7 → 1024 → logit.

    The option `batch_norm` adds batch normalization to the middle layers; do not combine it with a gradient penalty.
    """

    def __init__(self, settings: ModelSettings, shape: ImageShape, classes: int | None) -> None:
        super().__init__()
        batch_norm = bool(settings.options.get("batch_norm", False))
        size = 128 * (shape.height // 4) * (shape.width // 4)
        self.net = nn.Sequential(
            *(nn.Conv2d(shape.channels, 64, 4, stride=2, padding=1), nn.LeakyReLU(_LEAK)),
            nn.Conv2d(64, 128, 4, stride=2, padding=1),
            *([nn.BatchNorm2d(128)] if batch_norm else []),
            *(nn.LeakyReLU(_LEAK), nn.Flatten(), nn.Linear(size, 1024)),
            *([nn.BatchNorm1d(1024)] if batch_norm else []),
            *(nn.LeakyReLU(_LEAK), nn.Linear(1024, 1), nn.Flatten(0)),
        )
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net(images))


def _init_weights(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, std=0.02)
        assert layer.bias is not None, "every layer here has a bias"
        nn.init.zeros_(layer.bias)
