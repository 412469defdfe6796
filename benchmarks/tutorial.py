"""The networks of the PyTorch Lightning tutorial "basic GAN" as published, and its images as its own grids show them.

https://lightning.ai/docs/pytorch/stable/notebooks/lightning_examples/basic-gan.html: z of length 100; batch
normalisation with eps 0.8; a sigmoid at the discriminator's end. What trains them is in `tutorial_lightning.py`.
"""

from itertools import pairwise

from torch import Tensor, nn

from ganctl.training.models.base import Generator, ImageShape

LATENT = 100
SHAPE = ImageShape(1, 28, 28)


def generator() -> nn.Sequential:
    """z [N, 100] → images [N, 1, 28, 28] in [−1, 1]."""
    layers: list[nn.Module] = [nn.Linear(LATENT, 128), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in pairwise((128, 256, 512, 1024)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, 0.8), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Linear(1024, SHAPE.size), nn.Tanh(), nn.Unflatten(1, SHAPE))


def discriminator() -> nn.Sequential:
    """Images [N, 1, 28, 28] → probabilities [N, 1] of being real."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(SHAPE.size, 512), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2, inplace=True), nn.Linear(256, 1), nn.Sigmoid()),
    )


class AsShown(Generator):
    """The tutorial's generator with the pixels of its image grids.

    Its grids go to TensorBoard as they leave the tanh; TensorBoard clips what is below 0, shows 0 … 1 as black … white.
    Its real images have their black at −0.42, so that this is also what looks best: spread from −1 … 1, black would be
    grey.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__(LATENT, None, SHAPE)
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        """Images [N, 1, 28, 28] in [−1, 1], as every generator here gives them."""
        shown: Tensor = self.network(z).clamp(0, 1) * 2 - 1
        return shown
