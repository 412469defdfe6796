"""Every parameter is in one group; with lr_by_fan_in, layers with fewer inputs have larger learning rates."""

import pytest
from torch import nn

from ganctl.training.optim.param_groups import param_groups

NETWORK = nn.Sequential(
    nn.Linear(128, 32),
    nn.ConvTranspose2d(64, 8, 4, stride=2),
    nn.Conv2d(8, 2, 3),
    nn.Embedding(3, 4),
    nn.BatchNorm2d(2),
)


def scales(*, lr_by_fan_in: bool) -> dict[str, float]:
    names = {parameter: name for name, parameter in NETWORK.named_parameters()}
    return {
        names[p]: group["scale"] for group in param_groups(NETWORK, lr_by_fan_in=lr_by_fan_in) for p in group["params"]
    }


def test_learning_rate_factors_are_the_square_root_of_512_over_the_fan_in() -> None:
    factors = scales(lr_by_fan_in=True)
    assert factors.keys() == {name for name, _ in NETWORK.named_parameters()}
    assert factors.pop("0.weight") == pytest.approx(2)  # √(512 / 128)
    # 4 × 4 kernel with stride 2: an output sums over 4 of the 16 positions
    assert factors.pop("1.weight") == pytest.approx((512 / (64 * 4)) ** 0.5)
    assert factors.pop("2.weight") == pytest.approx((512 / 72) ** 0.5)
    assert set(factors.values()) == {1}


def test_without_lr_by_fan_in_all_parameters_have_the_same_learning_rate() -> None:
    assert set(scales(lr_by_fan_in=False).values()) == {1}


def test_a_parameter_shared_by_two_layers_is_in_one_group() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    groups = param_groups(nn.Sequential(first, second), lr_by_fan_in=True)
    assert sum(len(group["params"]) for group in groups) == 3
