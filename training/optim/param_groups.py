"""Learning rates by layer: Adam moves every weight by about the same distance per step, whatever its size, while a
layer's weights are the larger the fewer inputs it has."""

from typing import Any

from torch import nn

_INPUTS = 512  # of the layer that has the rate itself


def param_groups(network: nn.Module, *, lr_by_fan_in: bool) -> list[dict[str, Any]]:
    """The network's parameters as an optimizer's groups, each with the factor `scale` of its learning rate.

    With `lr_by_fan_in` weights of linear and convolutional layers have √(512 / inputs), so that layers change by like
    shares per step: the effect of "equalized learning rate" (Karras et al. 2018, arXiv:1710.10196, section 4.1) without
    other weights. Everything else has 1.
    """
    scales: dict[float, list[nn.Parameter]] = {}
    known: set[nn.Parameter] = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            scale = (_INPUTS / _fan_in(module)) ** 0.5 if lr_by_fan_in and name == "weight" and _fan_in(module) else 1.0
            if parameter not in known:
                scales.setdefault(scale, []).append(parameter)
                known.add(parameter)
    return [{"params": parameters, "scale": scale} for scale, parameters in sorted(scales.items())]


def _fan_in(module: nn.Module) -> float:
    """How many inputs one of a layer's outputs is a sum of; 0 for what is no such layer."""
    if isinstance(module, nn.ConvTranspose2d):
        return module.weight[:, 0].numel() / (module.stride[0] * module.stride[1])
    if isinstance(module, nn.Linear | nn.Conv2d):
        return float(module.weight[0].numel())
    return 0.0
