"""Every parameter is in one group, and layers of fewer inputs have the larger factors."""

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


def test_factors_are_roots_of_what_a_layers_outputs_sum_over() -> None:
    found = scales(lr_by_fan_in=True)
    assert found.keys() == {name for name, _ in NETWORK.named_parameters()}
    assert found.pop("0.weight") == pytest.approx(2)  # √(512 / 128)
    assert found.pop("1.weight") == pytest.approx((512 / (64 * 4)) ** 0.5)  # 4 × 4 with stride 2: 4 of 16 meet
    assert found.pop("2.weight") == pytest.approx((512 / 72) ** 0.5)
    assert set(found.values()) == {1}


def test_without_it_all_have_the_same_rate() -> None:
    assert set(scales(lr_by_fan_in=False).values()) == {1}


def test_a_parameter_that_two_layers_share_is_learnt_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    groups = param_groups(nn.Sequential(first, second), lr_by_fan_in=True)
    assert sum(len(group["params"]) for group in groups) == 3
