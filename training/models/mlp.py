"""MLP networks of the PyTorch Lightning tutorial "basic GAN", without the discriminator's final sigmoid."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ganctl.training.config.registry import DISCRIMINATORS, GENERATORS
from ganctl.training.config.schema import ModelSettings
from ganctl.training.models.base import NUM_FEATURES, Discriminator, EmbeddingDiscriminator, Generator, ImageShape
from ganctl.training.models.batch_norm import BatchNorm1d


class MlpGenerator(Generator):
    """The tutorial's generator: z → 128 → 256 → 512 → 1024 → C·H·W, batch normalization from the second layer on."""

    def __init__(self, latent_dim: int, classes: int | None, shape: ImageShape) -> None:
        super().__init__(latent_dim, classes, shape)
        self.embedding = nn.Embedding(classes, classes) if classes else None
        widths = [latent_dim + (classes or 0), 128, 256, 512, 1024]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(inputs, outputs))
            if i > 0:
                layers.append(BatchNorm1d(outputs, 0.8))  # 0.8 is eps, as in the tutorial
            layers.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], shape.size), nn.Tanh(), nn.Unflatten(1, shape))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(label)], dim=1)
        images: Tensor = self.net(z)
        return images


def _mlp_features(inputs: int) -> nn.Sequential:
    """The tutorial's hidden layers: C·H·W → 512 → 256."""
    layers = [nn.Linear(inputs, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2)]
    return nn.Sequential(nn.Flatten(), *layers)


@GENERATORS.register("mlp")
def _mlp_generator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> Generator:
    return MlpGenerator(settings.latent_dim, classes, shape)


@DISCRIMINATORS.register("mlp")
def _mlp_discriminator(settings: ModelSettings, shape: ImageShape, classes: int | None) -> nn.Module:
    if classes and settings.conditioning != "projection":
        return EmbeddingDiscriminator(_mlp_features(shape.size + classes), NUM_FEATURES, classes, (classes,))
    return Discriminator(_mlp_features(shape.size), NUM_FEATURES, classes)
