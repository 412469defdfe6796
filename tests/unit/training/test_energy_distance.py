"""The energy distance: its value, where its gradient moves generated images, and its gradient on several ranks."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks
from ganctl.training.losses.energy_distance import energy_distance
from ganctl.training.models.base import ImageShape
from ganctl.training.models.projected import split_maps

MAPS = [ImageShape(6, 4, 4), ImageShape(8, 2, 3)]
SIZE = sum(map_.size for map_ in MAPS)
LABELS = torch.arange(12) % 3


def features(n: int = 12, *, seed: int, offset: Tensor | float = 0.0, spread: float = 1.0) -> Tensor:
    """Random feature maps, [n, SIZE]; all positions of a channel are equal, so that means over a grid keep them."""
    rng = torch.Generator().manual_seed(seed)
    parts = []
    for map_ in MAPS:
        channels = spread * torch.randn(n, 1, 1, map_.channels, generator=rng)
        parts.append(channels.expand(-1, map_.height, map_.width, -1).reshape(n, -1))
    return torch.cat(parts, dim=1) + offset


def textbook(real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
    """2 E d(x, y) − E d(x, x') over all pairs, plus the same over pairs of one class, by loops over the pairs."""
    total = torch.zeros((), dtype=real.dtype)
    for x_map, y_map in zip(split_maps(fake, MAPS), split_maps(real, MAPS), strict=True):
        x, y = (adaptive_avg_pool2d(each, 2).flatten(1) for each in (x_map, y_map))
        for of_class in (False, True):
            to_real, to_fake = [], []
            for i in range(len(x)):
                for j in range(len(x)):
                    if of_class and labels[i] != labels[j]:
                        continue
                    to_real.append((x[i] - y[j]).square().mean().sqrt())
                    if i != j:
                        to_fake.append((x[i] - x[j]).square().mean().sqrt())
            total = total + 2 * torch.stack(to_real).mean() - torch.stack(to_fake).mean()
    return total


def gradient(real: Tensor, fake: Tensor, labels: Tensor = LABELS, ranks: Ranks = SINGLE_RANK) -> Tensor:
    fake = fake.clone().requires_grad_()
    (result,) = torch.autograd.grad(energy_distance(real, fake, labels, MAPS, ranks), fake)
    return result


def test_value_and_gradient_are_those_of_the_definition() -> None:
    real, fake = torch.randn(2, 12, SIZE, generator=torch.Generator().manual_seed(0))
    fake.requires_grad_()
    loss, expected = energy_distance(real, fake, LABELS, MAPS, SINGLE_RANK), textbook(real, fake, LABELS)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, fake)[0] for value in (loss, expected)))


def test_the_gradient_is_0_on_average_for_equal_distributions_and_only_for_them() -> None:
    """The mean over images and 200 batches, in units of its standard error."""
    equal, shifted, narrow = [], [], []
    for seed in range(200):
        real, fake = features(seed=seed), features(seed=1000 + seed)
        equal.append((gradient(real, fake) * fake).sum())  # along a change of the spread
        shifted.append(gradient(real, fake + 0.3).sum())
        narrow.append((gradient(real, 0.8 * fake) * fake).sum())

    def in_standard_errors(values: list[Tensor]) -> float:
        samples = torch.stack(values)
        return float(samples.mean() / (samples.std() / len(samples) ** 0.5))

    assert abs(in_standard_errors(equal)) < 3.5
    assert in_standard_errors(shifted) > 10, "descent lowers features that are too high"
    assert in_standard_errors(narrow) < -10, "descent spreads features that vary too little"


def test_nearly_equal_generated_images_are_pushed_apart() -> None:
    real = features(seed=0)
    difference = 0.05 * features(seed=1)
    fake = features(1, seed=2) + difference
    moved = -gradient(real, fake)
    around_mean = difference - difference.mean(dim=0)
    spread = ((moved - moved.mean(dim=0)) * around_mean).sum(dim=1)
    assert (spread > 0).all(), "descent leads away from the other images"


def test_equal_generated_images_have_a_finite_gradient() -> None:
    for image in (features(1, seed=1), torch.ones(1, SIZE)):  # the distances of the second are 0 without rounding
        result = gradient(features(seed=0), image.expand(12, -1))
        assert result.isfinite().all()
        assert result.any()


def test_images_of_a_class_are_compared_with_real_images_of_their_class() -> None:
    """All classes together have the real distribution, and each one that of another class."""
    centers = 2.0 * torch.tensor([-1.0, 0.0, 1.0])
    noise, others = features(seed=0, spread=0.1), features(seed=1, spread=0.1)
    real = noise + centers[LABELS].unsqueeze(1)
    right = others + centers[LABELS].unsqueeze(1)
    wrong = others + centers[(LABELS + 1) % 3].unsqueeze(1)
    loss = {name: energy_distance(real, fake, LABELS, MAPS, SINGLE_RANK) for name, fake in (("r", right), ("w", wrong))}
    assert loss["w"] > loss["r"] + 1
    moved = -gradient(real, wrong)
    towards = real - wrong
    assert ((moved * towards).sum(dim=1) > 0).all()
    # with a single class the same images are as good
    one = torch.zeros_like(LABELS)
    same = energy_distance(real, wrong, one, MAPS, SINGLE_RANK) - energy_distance(real, right, one, MAPS, SINGLE_RANK)
    assert same.abs() < 0.2


def test_the_images_of_a_class_vary_although_all_images_together_do() -> None:
    """One image for each class: the classes differ, and the images of one do not."""
    centers = 3.0 * torch.tensor([-1.0, 0.0, 1.0])[LABELS].unsqueeze(1)
    real = features(seed=0) + centers
    difference = 0.05 * features(seed=1)
    moved = -gradient(real, difference + centers)
    for label in range(3):
        chosen = label == LABELS
        apart = difference[chosen] - difference[chosen].mean(dim=0)
        assert ((moved[chosen] - moved[chosen].mean(dim=0)) * apart).sum() > 0


def test_a_class_with_a_single_image_and_a_batch_of_one_have_a_finite_loss() -> None:
    for labels in (torch.tensor([0, 0, 1]), torch.tensor([0])):
        n = len(labels)
        real, fake = features(n, seed=0), features(n, seed=1)
        assert gradient(real, fake, labels).isfinite().all()


def test_the_loss_is_computed_in_float32_inside_autocast() -> None:
    real, fake = features(seed=0, offset=3.0), features(seed=1, offset=3.0).requires_grad_()
    expected = energy_distance(real, fake, LABELS, MAPS, SINGLE_RANK)
    torch.testing.assert_close(expected, textbook(real, fake, LABELS), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = energy_distance(real, fake, LABELS, MAPS, SINGLE_RANK)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@dataclass
class Exchange:
    """The values that the ranks of `Threads` exchange."""

    barrier: threading.Barrier
    values: dict[int, Tensor] = field(default_factory=dict)

    def all(self, rank: int, value: Tensor) -> Tensor:
        self.values[rank] = value.detach().clone()
        self.barrier.wait(60)
        stacked = torch.stack([self.values[each] for each in sorted(self.values)])
        self.barrier.wait(60)
        return stacked


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process."""

    exchange: Exchange = field(default_factory=lambda: Exchange(threading.Barrier(1)))

    def all_gather(self, x: Tensor) -> Tensor:
        return self.exchange.all(self.rank, x)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(self.exchange.all(self.rank, tensor).mean(dim=0))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "labels",
    # with four ranks, the only two images of a class are a pair on two of them
    [LABELS, torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]), torch.tensor([0, 1, 2, 0, *range(3, 11)])],
    ids=["classes of 4", "a pair on one rank", "a pair on two ranks"],
)
def test_the_mean_gradient_and_value_of_several_ranks_are_those_of_the_whole_batch(labels: Tensor, size: int) -> None:
    real, fake = features(seed=0), features(seed=1, offset=0.5)
    exchange = Exchange(threading.Barrier(size))

    def run(rank: int) -> tuple[Tensor, Tensor]:
        ranks = Threads(rank, size, exchange=exchange)
        rows = ranks.local_slice(len(labels))
        share = fake[rows].clone().requires_grad_()
        loss = energy_distance(real[rows], share, labels[rows], MAPS, ranks)
        return loss.detach(), torch.autograd.grad(loss, share)[0]

    with ThreadPoolExecutor(size) as pool:
        losses, gradients = zip(*pool.map(run, range(size)), strict=True)
    expected = energy_distance(real, fake, labels, MAPS, SINGLE_RANK)
    torch.testing.assert_close(torch.stack(losses).mean(), expected)
    # the gradients of the weights are averaged over the ranks
    torch.testing.assert_close(torch.cat(gradients) / size, gradient(real, fake, labels))
