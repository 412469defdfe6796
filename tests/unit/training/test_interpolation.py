"""Walks through latent space keep to the sphere, pass their stops and close; labels mix on the way."""

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


def test_slerp_goes_along_the_circle_at_a_constant_speed() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    t = torch.arange(5) / 4
    points = slerp(a.expand(5, -1), b.expand(5, -1), t)
    angles = t * torch.pi / 2
    assert torch.allclose(points, 2 * torch.stack([angles.cos(), angles.sin()], dim=1), atol=1e-6)


def test_slerp_keeps_the_length_that_a_straight_line_loses() -> None:
    a, b = torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(0))
    middle = slerp(a, b, torch.full((100,), 0.5)).norm(dim=1)
    ends = (a.norm(dim=1) + b.norm(dim=1)) / 2
    assert (middle / ends).min() > 0.95
    assert (((a + b) / 2).norm(dim=1) / ends).median() < 0.75


@pytest.mark.parametrize("b", [[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0], [0.0, 0.0]])
def test_slerp_is_finite_and_ends_right_where_there_is_no_one_circle(b: list[float]) -> None:
    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([b])
    assert torch.equal(slerp(first, second, torch.tensor([0.0])), first)
    assert torch.allclose(slerp(first, second, torch.tensor([1.0])), second)
    assert slerp(first, second, torch.tensor([0.5])).isfinite().all()


@pytest.mark.parametrize(("stops", "frames"), [(3, 12), (3, 10), (1, 5), (7, 7)])
def test_every_keyframe_is_a_frame_and_the_walk_closes(stops: int, frames: int) -> None:
    origin, t = segments(stops, frames)
    assert len(origin) == len(t) == frames
    assert origin[t == 0].tolist() == list(range(stops))
    assert 0 <= t.min() <= t.max() < 1
    z = torch.randn(stops, 8, generator=torch.Generator().manual_seed(1))
    path = walk_latents(z, frames)
    assert torch.equal(path[np.flatnonzero(t == 0)], z)
    if frames > stops > 1:
        after = (path.roll(-1, 0) - path).norm(dim=1)  # the step from the last frame to the first is one like others
        assert after[-1] < 2 * after.median()


def test_labels_pass_into_each_other() -> None:
    shares = walk_labels(torch.tensor([2, 0]), classes=3, frames=8)
    assert shares[:5, 2].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert torch.allclose(shares.sum(dim=1), torch.ones(8))
    assert walk_labels(torch.tensor([1, 1]), classes=3, frames=4)[:, 1].tolist() == [1] * 4


@pytest.mark.parametrize("generator", ["conv", "mlp"])
def test_mixed_labels_draw_what_lies_between_and_pure_ones_what_they_always_draw(generator: str) -> None:
    config, _ = resolve(assignments=["model.base_channels=4", f"model.generator={generator}"], environment={})
    torch.manual_seed(0)
    source = GeneratorSource(build_generator(config.model, ImageShape(1, 28, 28), 10), tuple("0123456789"))
    assert source.can_mix_labels
    z, labels = torch.randn(6, source.latent_dim), torch.tensor([0, 9, 3, 3, 5, 1])
    before = {name: value.clone() for name, value in source.generator.state_dict().items()}
    pure = source.generate_mixed(z, torch.eye(10)[labels])
    assert torch.equal(pure, source.generate(z, labels))
    between = source.generate_mixed(
        z[:1].expand(3, -1), torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1]]) @ torch.eye(10)[:2]
    )
    steps = between.float().diff(dim=0).flatten(1).norm(dim=1)
    assert steps.max() < (between[0].float() - between[2].float()).norm()
    assert all(torch.equal(value, before[name]) for name, value in source.generator.state_dict().items())
