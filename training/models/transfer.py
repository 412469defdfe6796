"""Fits the weights of trained networks to networks for other images: other classes, channels or sizes.

Tensors are matched by name. A tensor of the same shape is copied. If only axes that depend on the images differ
(`image_axes`), they are converted, so that the network begins as the trained one. All other tensors keep the weights of
the new network. Networks that start from a trained pair need fewer images and less time (Wang et al. 2018,
arXiv:1805.01677).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ganctl.training.models.base import Discriminator
from ganctl.training.models.image_axes import LAYERS, Axes, Axis, Conversion, ImageDomain, axis_size

_SPECTRAL_NORM = re.compile(r"\bparametrizations\.(\w+)\.original$")
_SINGULAR = ("parametrizations.weight.0._u", "parametrizations.weight.0._v")  # vectors of spectral normalization
_KINDS = ("weight", "bias", *_SINGULAR)  # of a layer's tensors
_TENSOR = re.compile(r"\.(weight|bias|parametrizations\..*)$")
_LISTED = 12  # layers in one line


@dataclass
class Transfer:
    """The weights of one network, and their origin; names are those of tensors.

    Attributes:
        state: state dict of the new network.
        copied: unchanged from the old network.
        adapted: converted, with the factors that differ.
        new: with the weights of the new network.
        unused: tensors of the old network that were not taken.
        weights: number of weights from the old network.
    """

    state: dict[str, Tensor]
    copied: list[str] = field(default_factory=list)
    adapted: dict[str, set[str]] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    weights: int = 0

    @property
    def size(self) -> int:
        """Number of weights of the new network."""
        return sum(tensor.numel() for tensor in self.state.values())


@torch.no_grad()
def transfer(
    network: nn.Module, source: Mapping[str, Tensor], source_domain: ImageDomain, domain: ImageDomain
) -> Transfer:
    """Fits the state dict of an old network to a new one, which is not changed.

    Args:
        network: the new network, for images of `domain`.
        source: state dict of the old network, for images of `source_domain`.
        source_domain, domain: properties of the images.

    Returns:
        The new weights, on the CPU.
    """
    result = Transfer({name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()})
    names = {_plain_name(name): name for name in result.state}
    new = {plain: result.state[name] for plain, name in names.items()}
    old = {_plain_name(name): tensor.detach().cpu() for name, tensor in source.items()}
    projection = old.get("projection.weight")
    if projection is not None and isinstance(network, Discriminator) and network.projection is None:
        # the label is the mean over the old classes; the vectors of the old weight do not fit the sum
        old["logit.weight"] = _normalized(old, "logit") + _normalized(old, "projection").mean(dim=0)
        old = {name: tensor for name, tensor in old.items() if name not in {f"logit.{kind}" for kind in _SINGULAR}}
    axes = Axes.of(network, domain, source_domain, old), Axes.of(network, domain, domain, new)
    taken: dict[str, tuple[int, set[str]]] = {}  # number of weights, converted factors
    of_layers = set()
    for prefix, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            kinds = {kind: f"{prefix}.{kind}" for kind in _KINDS if f"{prefix}.{kind}" in new}
            found = {kind: old[name] for kind, name in kinds.items() if name in old}
            conversion = Conversion(source_domain, domain)
            counts = _fit_layer(layer, found, {kind: new[name] for kind, name in kinds.items()}, axes, conversion, old)
            taken |= {kinds[kind]: (count, conversion.changes) for kind, count in counts.items()}
            of_layers |= {*kinds.values()}
    for plain in new.keys() - of_layers:
        if plain in old and old[plain].shape == new[plain].shape:
            taken[plain] = new[plain].copy_(old[plain]).numel(), set()
    for plain, name in names.items():
        count, changes = taken.get(plain, (0, set()))
        result.weights += count
        if not count and new[plain].numel():
            result.new.append(name)
        elif changes:
            result.adapted[name] = changes
        else:
            result.copied.append(name)
    result.unused = [name for name in source if _plain_name(name) not in taken]
    return result


def _plain_name(name: str) -> str:
    """Returns the name of a tensor without spectral normalization, which renames weights."""
    return _SPECTRAL_NORM.sub(r"\1", name)


def _fit_layer(
    layer: nn.Module,
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    axes: tuple[Axes, Axes],
    conversion: Conversion,
    source: Mapping[str, Tensor],
) -> dict[str, int]:
    """Writes the old tensors of a layer into the new ones; returns the number of values written into each.

    Without the weight, the others have no meaning and are not taken.

    Args:
        layer: a layer of the new network.
        old, new: its tensors by kind.
        axes: those of the old and of the new network.
        conversion: converts an axis.
        source: all tensors of the old network.
    """
    if "weight" not in old or "weight" not in new or old["weight"].shape[2:] != new["weight"].shape[2:]:
        return {}
    # [inputs, outputs, …]; of an embedding [columns, rows]
    before, after = (
        tensors["weight"] if isinstance(layer, nn.ConvTranspose2d) else tensors["weight"].transpose(0, 1)
        for tensors in (old, new)
    )
    inputs = [ax.inputs(layer, len(weight)) for ax, weight in zip(axes, (before, after), strict=True)]
    outputs = [ax.outputs(layer, weight.shape[1]) for ax, weight in zip(axes, (before, after), strict=True)]
    by_input = conversion(before.double(), *inputs, summed=not isinstance(layer, nn.Embedding))
    if by_input is None:
        return {}
    rows, columns = by_input
    by_output = conversion(rows.transpose(0, 1), *outputs, summed=False)
    if by_output is None:
        return {}
    weight, positions = by_output
    after.transpose(0, 1)[positions[:, None], columns] = weight.to(after.dtype)
    counts = {"weight": weight.numel()}
    if "bias" in old and "bias" in new:
        dropped = _dropped_outputs(before.double(), inputs[0], inputs[1], source) / _spectral_norm(old)
        bias = old["bias"].double() + dropped
        converted = conversion(bias, *outputs, summed=False)
        assert converted is not None, "the weight has the same axis"
        new["bias"][converted[1]] = converted[0].to(new["bias"].dtype)
        counts["bias"] = len(converted[0])
    if {*_SINGULAR} <= {*new}:
        if {*_SINGULAR} <= {*old} and not conversion.changes:
            for kind in _SINGULAR:
                new[kind].copy_(old[kind])
        else:
            _power_iteration(new["weight"].flatten(1), *(new[kind] for kind in _SINGULAR))
        counts |= {kind: len(new[kind]) for kind in _SINGULAR}
    return counts


def _spectral_norm(layer: Mapping[str, Tensor]) -> float:
    """Returns the number by which spectral normalization divides a layer's weight, given its tensors by kind.

    It is 1 without spectral normalization.
    """
    if not {*_SINGULAR} <= {*layer}:
        return 1.0
    u, v = (layer[kind].double() for kind in _SINGULAR)
    return float(u @ layer["weight"].flatten(1).double() @ v)


def _normalized(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Returns the weight with which a layer computes, given all tensors of its network."""
    kinds = {kind: state[f"{name}.{kind}"] for kind in _KINDS if f"{name}.{kind}" in state}
    return kinds["weight"] / _spectral_norm(kinds)


def _power_iteration(weight: Tensor, u: Tensor, v: Tensor) -> None:
    """Fits the vectors of spectral normalization to a weight [outputs, inputs], in place; as for a new layer."""
    for _ in range(15):
        u.copy_(normalize(weight @ v, dim=0))
        v.copy_(normalize(weight.T @ u, dim=0))


def _dropped_outputs(weight: Tensor, before: Axis, after: Axis, source: Mapping[str, Tensor]) -> Tensor:
    """Returns the constant, [outputs], by which dropped inputs of a layer contributed to its outputs.

    The label of an unconditional network is the mean over the old classes, and images without alpha are opaque, which
    is 1.

    Args:
        weight: float64 [inputs, outputs, …].
        before, after: the input axis.
        source: all tensors of the old network.
    """
    total, start = torch.zeros(weight.shape[1], dtype=weight.dtype), 0
    if axis_size(before) == axis_size(after):
        return total
    for old, new in zip(before, after, strict=True):
        length = math.prod(old.values())
        part, start = weight[start : start + length], start + length
        if old.get("label", 0) and not new["label"]:
            table = _normalized(source, "embedding").double()
            if table.shape[1] == length:
                total += torch.tensordot(table.mean(dim=0), part, dims=1).reshape(len(total), -1).sum(dim=1)
        elif old.get("colors") == 4 and new["colors"] < 4:
            alpha = part.unflatten(0, tuple(old.values()))[3].flatten(0, len(old) - 2)
            total += alpha.transpose(0, 1).flatten(1).sum(dim=1)
    return total


@dataclass(frozen=True)
class TransferReport:
    """The origin of all weights of a run that starts with the networks of another."""

    networks: Mapping[str, Transfer]
    source_domain: ImageDomain
    domain: ImageDomain

    @property
    def share(self) -> float:
        """The share of the weights that come from the other run, 0 … 1."""
        transfers = self.networks.values()
        return sum(each.weights for each in transfers) / max(1, sum(each.size for each in transfers))

    def lines(self) -> list[str]:
        """Describes what was taken, adapted, new and left out, in a few lines."""
        names = self.names()
        taken, new = len(names["copied"]) + len(names["adapted"]), len(names["new"])
        lines = [f"took {taken} of {taken + new} tensors ({self.share:.0%} of the weights)"]
        for factors, text in self._adaptations().items():
            adapted = [
                f"{network}.{name}"
                for network, each in self.networks.items()
                for name, changes in each.adapted.items()
                if factors & changes
            ]
            if adapted:
                lines.append(f"adapted {text}: {_listed(adapted)}")
        lines += [f"new: {_listed(names['new'])}"] if new else []
        lines += [f"left out: {_listed(names['unused'])}"] if names["unused"] else []
        return lines

    def describe(self) -> dict[str, Any]:
        """Returns the share of the weights and the names of all tensors by origin."""
        return {"weights_share": round(self.share, 4), **self.names()}

    def names(self) -> dict[str, list[str]]:
        """Returns the names of all tensors by origin: copied, adapted, new, unused; each with its network's name."""
        return {
            origin: [f"{network}.{name}" for network, each in self.networks.items() for name in getattr(each, origin)]
            for origin in ("copied", "adapted", "new", "unused")
        }

    def _adaptations(self) -> dict[frozenset[str], str]:
        """Factors → description of their conversion."""
        (old_shape, old_names), (shape, names) = self.source_domain, self.domain
        common = len({*old_names} & {*names})
        sizes = (f"{each.height} × {each.width}" for each in (old_shape, shape))
        return {
            frozenset({"classes"}): f"from {len(old_names)} to {len(names)} classes ({common} of the same name)",
            frozenset({"colors"}): f"from {old_shape.channels} to {shape.channels} channels",
            frozenset({"height", "width"}): f"from {' to '.join(sizes)} pixels",
            frozenset({"label"}): "at the input of the label",
        }


def _listed(tensors: Iterable[str]) -> str:
    """Lists the layers of tensors."""
    layers = list(dict.fromkeys(_TENSOR.sub("", name) for name in tensors))
    more = f" and {len(layers) - _LISTED} more" if len(layers) > _LISTED else ""
    return ", ".join(layers[:_LISTED]) + more
