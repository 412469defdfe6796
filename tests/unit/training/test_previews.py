"""Preview images of a run stay small, whatever the number of classes."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ganctl.training.callbacks.previews import class_grids, fixed_grid
from ganctl.training.images.pictures import ENLARGEMENT, encode_animation, to_picture


class LabelSource:
    """Generates 128 × 128 images of a gray level that is the label, modulo 256."""

    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        return (label % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 128, 128)


def run_of(classes: int) -> Any:
    return SimpleNamespace(
        class_names=tuple(f"c{label}" for label in range(classes)),
        config=SimpleNamespace(model=SimpleNamespace(conditional=True)),
        generator=SimpleNamespace(latent_dim=4),
        source=LabelSource(),
    )


def test_the_grid_has_a_column_for_each_of_up_to_100_classes() -> None:
    assert fixed_grid(run_of(10))[0, ::128, 0].tolist() == [*range(10)]
    assert fixed_grid(run_of(100))[0, ::128, 0].tolist() == [*range(100)]
    assert list(class_grids(run_of(12))) == [f"c{label}" for label in range(12)]


def test_of_a_thousand_classes_100_are_shown_and_a_gif_can_hold_them() -> None:
    run = run_of(1000)
    grid, grids = fixed_grid(run), class_grids(run)
    assert grid.shape == (8 * 128, 100 * 128, 1)
    assert len(grids) == 100
    assert {"c0", "c999"} <= set(grids), "from the first to the last"
    for name, images in grids.items():
        assert (images[:128] == int(name[1:]) % 256).all(), "the images are those of the named class"
    assert encode_animation([to_picture(grid, ENLARGEMENT)], durations=100).startswith(b"GIF")
