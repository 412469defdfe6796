"""Latent interpolation: slerp keeps the norm, walks contain their keyframes and close, labels are mixed."""

import numpy as np
import pytest
import torch

from ganctl.common.interpolation import segments
from ganctl.common.interpolation import slerp as slerp_arrays
from ganctl.training.config.resolve import resolve
from ganctl.training.images.interpolation import walk_labels, walk_latents
from ganctl.training.images.source import GeneratorSource
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_generator


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(slerp_arrays(a.numpy(), b.numpy(), t.double().numpy()))


def test_slerp_moves_along_the_circle_at_a_constant_speed() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    t = torch.arange(5) / 4
    points = slerp(a.expand(5, -1), b.expand(5, -1), t)
    angles = t * torch.pi / 2
    assert torch.allclose(points, 2 * torch.stack([angles.cos(), angles.sin()], dim=1), atol=1e-6)


def test_slerp_keeps_the_norm_that_linear_interpolation_loses() -> None:
    a, b = torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(0))
    middle = slerp(a, b, torch.full((100,), 0.5)).norm(dim=1)
    ends = (a.norm(dim=1) + b.norm(dim=1)) / 2
    assert (middle / ends).min() > 0.95
    assert (((a + b) / 2).norm(dim=1) / ends).median() < 0.75


@pytest.mark.parametrize("b", [[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0], [0.0, 0.0]])
def test_slerp_of_parallel_opposite_and_zero_vectors_is_finite_with_exact_ends(b: list[float]) -> None:
    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([b])
    assert torch.equal(slerp(first, second, torch.tensor([0.0])), first)
    assert torch.allclose(slerp(first, second, torch.tensor([1.0])), second)
    assert slerp(first, second, torch.tensor([0.5])).isfinite().all()


@pytest.mark.parametrize(("keyframes", "frames"), [(3, 12), (3, 10), (1, 5), (7, 7)])
def test_every_keyframe_is_a_frame_and_the_walk_closes(keyframes: int, frames: int) -> None:
    origin, t = segments(keyframes, frames)
    assert len(origin) == len(t) == frames
    assert origin[t == 0].tolist() == list(range(keyframes))
    assert 0 <= t.min() <= t.max() < 1
    z = torch.randn(keyframes, 8, generator=torch.Generator().manual_seed(1))
    path = walk_latents(z, frames)
    assert torch.equal(path[np.flatnonzero(t == 0)], z)
    if frames > keyframes > 1:
        steps = (path.roll(-1, 0) - path).norm(dim=1)  # the last step leads back to the first frame
        assert steps[-1] < 2 * steps.median()


def test_label_weights_change_linearly_between_keyframes() -> None:
    weights = walk_labels(torch.tensor([2, 0]), classes=3, frames=8)
    assert weights[:5, 2].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert torch.allclose(weights.sum(dim=1), torch.ones(8))
    assert walk_labels(torch.tensor([1, 1]), classes=3, frames=4)[:, 1].tolist() == [1] * 4


@pytest.mark.parametrize("generator", ["conv", "mlp", "residual"])
def test_mixed_labels_give_images_in_between_and_one_hot_labels_the_usual_images(generator: str) -> None:
    config, _ = resolve(assignments=["model.base_channels=4", f"model.generator={generator}"], environment={})
    torch.manual_seed(0)
    source = GeneratorSource(build_generator(config.model, ImageShape(1, 28, 28), 10), tuple("0123456789"))
    assert source.can_mix_labels
    z, labels = torch.randn(6, source.latent_dim), torch.tensor([0, 9, 3, 3, 5, 1])
    before = {name: value.clone() for name, value in source.generator.state_dict().items()}
    one_hot = source.generate_mixed(z, torch.eye(10)[labels])
    assert torch.equal(one_hot, source.generate(z, labels))
    mixed = source.generate_mixed(z[:1].expand(3, -1), torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1]]) @ torch.eye(10)[:2])
    steps = mixed.float().diff(dim=0).flatten(1).norm(dim=1)
    assert steps.max() < (mixed[0].float() - mixed[2].float()).norm()
    assert all(torch.equal(value, before[name]) for name, value in source.generator.state_dict().items())
