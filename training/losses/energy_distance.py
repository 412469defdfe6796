"""Energy distance: a generator loss on distances between images, so that generated images vary as real ones do.

A discriminator judges single images. It hardly sees that all images of a class are alike, and a generator that learns
from a few hundred thousand images then generates one image a class. The energy distance of two distributions
(Székely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018, eq. 5) is 0 only if they are equal:

    2 E d(x, y) − E d(x, x') − E d(y, y'), with generated x, x' and real y, y'

Its gradient moves a generated image towards real ones, and away from other generated ones. Bellemare et al. 2017
(arXiv:1705.10743) use it for GANs, on learned features. Here the features are those of a pretrained network.
"""

import itertools

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganctl.training.distributed.ranks import Ranks
from ganctl.training.models.base import ImageShape
from ganctl.training.models.projected import split_maps

_GRID = 2  # side of the grid of means that stands for a feature map: enough for the layout of an image
_MIN_SQUARED = 1e-4  # below it, the difference of large squares is rounding


def energy_distance(real: Tensor, fake: Tensor, labels: Tensor, maps: list[ImageShape], ranks: Ranks) -> Tensor:
    """Energy distance of generated images and of those of each class, without the terms of real images alone.

    d(x, y) = √(mean_j (x_j − y_j)²), summed over the feature maps. The mean over all pairs of a batch is added to the
    mean over pairs of one class: the first is the more exact one, and the second lets images of a class vary. The
    gradient is that of the whole batch: generated images of other ranks are constants, and the mean of the gradients
    over the ranks is exact.

    Args:
        real: feature maps of this rank's real images, [N, K]; not differentiated.
        fake: feature maps of this rank's generated images, [N, K].
        labels: int64 [N], shared by real and generated images.
        maps: shapes of the feature maps.
        ranks: those that share the batch.

    Returns:
        A scalar. Since the terms of real images are left out, it is not 0 for equal distributions, but the sum of the
        mean distances between real images.
    """
    with torch.autocast(fake.device.type, enabled=False):  # differences of squares need fp32
        return _energy_distance(real, fake, labels, maps, ranks)


def _energy_distance(real: Tensor, fake: Tensor, labels: Tensor, maps: list[ImageShape], ranks: Ranks) -> Tensor:
    all_labels = _gather(labels, ranks)
    local, n = len(labels), len(all_labels)
    rows = torch.arange(local, device=labels.device)[:, None] + ranks.rank * local
    different = (rows != torch.arange(n, device=labels.device)).to(fake.dtype)  # not an image and itself
    same_class = (labels[:, None] == all_labels).to(fake.dtype)
    in_class = same_class.sum()
    ranks.all_reduce_mean([in_class])
    groups = ((torch.ones_like(same_class), in_class.new_full((), local * n)), (same_class, in_class))
    pooled = [
        [adaptive_avg_pool2d(each, _GRID).flatten(1) for each in split_maps(images, maps)] for images in (fake, real)
    ]
    gathered = _gather_all([x.detach() for x in itertools.chain(*pooled)], ranks)
    total = fake.new_zeros(())
    for x, all_x, all_y in zip(pooled[0], gathered[: len(maps)], gathered[len(maps) :], strict=True):
        to_real, to_fake = _distances(x, all_y), _distances(x, all_x)
        for pairs, count in groups:
            attraction = _mean(to_real, pairs, count, ranks)
            repulsion = _mean(to_fake, pairs * different, count - local, ranks)  # without the pairs of an image itself
            # each pair of generated images occurs twice, and only the first one of a pair has a gradient here
            total = total + 2 * attraction - 2 * repulsion + repulsion.detach()
    return total


def _gather(x: Tensor, ranks: Ranks) -> Tensor:
    """Joins the rows of all ranks."""
    return ranks.all_gather(x).flatten(0, 1) if ranks.communicates else x


def _gather_all(tensors: list[Tensor], ranks: Ranks) -> list[Tensor]:
    """Joins the rows of all ranks, of each of the [N, …] tensors, in one message."""
    if not ranks.communicates:
        return tensors
    return list(_gather(torch.cat(tensors, dim=1), ranks).split([tensor.shape[1] for tensor in tensors], dim=1))


def _mean(distances: Tensor, pairs: Tensor, count: Tensor, ranks: Ranks) -> Tensor:
    """Mean of distances weighted by `pairs`; the mean of its gradient over the ranks is that of the whole batch.

    Args:
        distances: [N, M].
        pairs: 1 for the pairs of the mean, else 0, [N, M].
        count: number of these pairs, as the mean over the ranks.
        ranks: those that share the batch.
    """
    # a class without pairs has none on any rank; a single pair is 1/ranks on average
    return (distances * pairs).sum() / count.clamp(min=1 / ranks.size)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Root mean squared differences, [N, M]."""
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * (x @ y.T)
    return (squared / x.shape[1]).clamp(min=_MIN_SQUARED).sqrt()
