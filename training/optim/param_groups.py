"""Parameter groups with learning rates by fan-in.

Adam moves every weight by about the same distance per step, whatever its size. Layers with fewer inputs have larger
weights, so at one learning rate they change relatively more slowly.
"""

from typing import Any

from torch import nn

_REFERENCE_FAN_IN = 512  # a layer with this fan-in has scale 1


def param_groups(network: nn.Module, *, lr_by_fan_in: bool) -> list[dict[str, Any]]:
    """Groups the network's parameters by `scale`, a factor of their learning rate.

    With `lr_by_fan_in`, weights of linear and convolutional layers have scale √(512 / fan_in), so that all layers
    change at similar relative rates. This has the effect of the "equalized learning rate" (Karras et al. 2018,
    arXiv:1710.10196, section 4.1) without a change of the weights. All other parameters have scale 1.

    Returns:
        Dicts with `params` and `scale`, in order of `scale`.
    """
    scales: dict[nn.Parameter, float] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fan_in = _fan_in(module) if lr_by_fan_in and name == "weight" else 0.0
            scales.setdefault(parameter, (_REFERENCE_FAN_IN / fan_in) ** 0.5 if fan_in else 1.0)
    groups = sorted(set(scales.values()))
    return [{"params": [p for p in scales if scales[p] == scale], "scale": scale} for scale in groups]


def _fan_in(module: nn.Module) -> float:
    """Number of inputs that one output of a linear or convolutional layer sums; 0 for other modules."""
    if isinstance(module, nn.ConvTranspose2d):
        return module.weight[:, 0].numel() / (module.stride[0] * module.stride[1])
    if isinstance(module, nn.Linear | nn.Conv2d):
        return float(module.weight[0].numel())
    return 0.0
