"""Networks of the PyTorch Lightning tutorial "basic GAN" as published, and its images as its own grids display them.

https://lightning.ai/docs/pytorch/stable/notebooks/lightning_examples/basic-gan.html: latents of
length 100; batch normalization with eps 0.8; a sigmoid after the discriminator. `tutorial_lightning.py` trains them.
"""

from itertools import pairwise

from torch import Tensor, nn

from ganctl.training.models.base import Generator, ImageShape

LATENT_DIM = 100
SHAPE = ImageShape(1, 28, 28)


def generator(shape: ImageShape = SHAPE) -> nn.Sequential:
    """Builds the generator: z [N, 100] → images [N, C, H, W] in [−1, 1]."""
    layers: list[nn.Module] = [nn.Linear(LATENT_DIM, 128), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in pairwise((128, 256, 512, 1024)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, 0.8), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Linear(1024, shape.size), nn.Tanh(), nn.Unflatten(1, shape))


def discriminator(shape: ImageShape = SHAPE) -> nn.Sequential:
    """Builds the discriminator: images [N, C, H, W] → probabilities [N, 1] of being real."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(shape.size, 512), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2, inplace=True), nn.Linear(256, 1), nn.Sigmoid()),
    )


class DisplayedGenerator(Generator):
    """The tutorial's generator with the pixels that its image grids display.

    The tutorial sends tanh output to TensorBoard, which clips it to 0 … 1 and displays that as black … white. This also
    looks best: black is −0.42 in the tutorial's real images, so that it would be gray on a scale of −1 … 1.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__(LATENT_DIM, None, SHAPE)
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        """Maps z [N, 100] to images [N, 1, 28, 28] in [−1, 1]."""
        images: Tensor = self.network(z).clamp(0, 1) * 2 - 1
        return images
