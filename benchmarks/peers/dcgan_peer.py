"""DCGAN as in PyTorch's tutorial (https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html).

Kept from the tutorial: latents of length 100, 64 channels at half the resolution of the image and twice as many at
each halving, batch normalization, weights from N(0, 0.02²), binary cross-entropy, Adam (2e-4, 0.5, 0.999), batches of
128 images, an update of the discriminator and one of the generator on the same images; images are drawn with the
batch's own statistics. There is no moving average. The tutorial has networks for 64 pixels; here one level is left out
for 32 pixels and one is added for 128. Images of other sizes are padded; colors are multiplied with alpha.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader

from ganctl.benchmarks.peers.gan import Fit, FloatImages, Sampler, Training, power_of_two, seed_all

_LATENT_DIM = 100
_CHANNELS = 64
_BATCH = 128


def _widths(side: int) -> list[int]:
    """Returns the channels at 4, 8, …, side / 2 pixels."""
    return [_CHANNELS * side // (2 * size) for size in (2**k for k in range(2, side.bit_length() - 1))]


def generator(side: int, channels: int) -> nn.Sequential:
    """Builds the generator: z [N, 100, 1, 1] → images [N, channels, side, side] in [−1, 1]."""
    widths = _widths(side)
    layers: list[nn.Module] = [nn.ConvTranspose2d(_LATENT_DIM, widths[0], 4, 1, 0, bias=False)]
    for inputs, outputs in pairwise((*widths, channels)):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False))
    return nn.Sequential(*layers, nn.Tanh()).apply(_init_weights)


def discriminator(side: int, channels: int) -> nn.Sequential:
    """Builds the discriminator: images [N, channels, side, side] → probabilities [N] of being real."""
    widths = _widths(side)[::-1]
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs)]
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    layers += [nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Sigmoid(), nn.Flatten(0)]
    return nn.Sequential(*layers).apply(_init_weights)


def _init_weights(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up."""
    fit = Fit(training.shape, power_of_two(training.shape), training.shape.channels)
    seed_all(training.seed)
    g, d = (build(fit.side, fit.channels).to(training.device) for build in (generator, discriminator))
    optimizers = [Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (d, g)]
    loss = nn.BCELoss()
    loader = DataLoader(FloatImages(fit.to_peer(training.data.images)), _BATCH, shuffle=True)
    training.clock.start()
    over = False
    while not over:
        for batch in loader:
            real = batch.to(training.device) * 2 - 1
            ones = torch.ones(len(real), device=training.device)
            d.zero_grad()
            loss(d(real), ones).backward()
            fake = g(torch.randn(len(real), _LATENT_DIM, 1, 1, device=training.device))
            loss(d(fake.detach()), torch.zeros_like(ones)).backward()
            optimizers[0].step()
            g.zero_grad()
            loss(d(fake), ones).backward()
            optimizers[1].step()
            over = training.clock.step(len(real), g)
            if over:
                break

    @torch.no_grad()
    def generate(n: int) -> Tensor:
        z = torch.randn(n, _LATENT_DIM, 1, 1).to(training.device)
        return torch.cat([fit.from_peer((g(chunk) + 1) / 2) for chunk in z.split(_BATCH)])

    return Sampler(g, generate)
