"""The axes of a network's tensors that depend on the images, and their conversion to other images.

An axis is a sequence of segments, and a segment a product of factors. The convolution to a color image of 2 × 2 blocks
has the output axis ({"colors": 3, "block": 4},); a linear layer on z and a label embedding has the input axis
({"z": 64}, {"label": 32}). The factors `classes`, `colors`, `height`, `width` and `label` may differ between two
networks. A matrix [new size, old size] converts each of them; all other factors must be equal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ganctl.training.models.base import Discriminator, Generator, ImageShape
from ganctl.training.models.conv import FlattenLast, UnflattenLast

Segment = Mapping[str, int]  # factor → size, the outermost first
Axis = tuple[Segment, ...]
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


class ImageDomain(NamedTuple):
    """The properties of images on which the shapes of networks depend."""

    shape: ImageShape
    class_names: tuple[str, ...]  # empty without labels


@dataclass(frozen=True)
class Axes:
    """Finds the axes of a network's layers, from the layers and from the domain of the images.

    The layers are those of one network. With the domain of other images, the axes are those of the same network for
    these images.

    - The rows of a label embedding and of the head `classifier` of a `Discriminator` are classes.
    - A generator's linear layer before an `UnflattenLast` or `nn.Unflatten` has a grid of positions as its output, and
      a discriminator's linear layer after a `FlattenLast` has one as its input. The grid grows with the image.
    - A generator's linear layer reads z, the embedding of the label (attribute `embedding`), then other units.
    - A generator's last convolution writes the colors, each as a block of pixels, and a discriminator's first one reads
      them. Where an embedding of the label is another channel or more numbers, it comes after the colors.
    """

    network: nn.Module
    domain: ImageDomain
    label_width: int  # of the attribute `embedding`; 0 without it
    grids: Mapping[nn.Module, Segment]  # of linear layers, for images of `base`
    base: ImageDomain  # that of the network

    @staticmethod
    def of(network: nn.Module, base: ImageDomain, domain: ImageDomain, state: Mapping[str, Tensor]) -> "Axes":
        """Returns the axes of the same network for other images.

        Args:
            network: a network for images of `base`.
            base: properties of its images.
            domain: properties of the other images.
            state: state dict of the network for the other images.
        """
        embedding = state.get("embedding.weight")
        width = embedding.shape[1] if embedding is not None else 0
        return Axes(network, domain, width, _grids(network, base.shape), base)

    def outputs(self, layer: nn.Module, size: int) -> Axis:
        """Returns the axis of a layer's outputs; for an embedding, of its rows."""
        is_head = isinstance(self.network, Discriminator) and layer is self.network.classifier
        if size == len(self.domain.class_names) and (is_head or isinstance(layer, nn.Embedding)):
            return ({"classes": size},)
        if isinstance(self.network, Generator):
            if grid := self._grid(layer, size):
                return (grid,)
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and size % (colors := self.domain.shape.channels) == 0:
                return ({"colors": colors, "block": size // colors},)
        return ({"units": size},)

    def inputs(self, layer: nn.Module, size: int) -> Axis:
        """Returns the axis of a layer's inputs; for an embedding, of its columns."""
        (colors, height, width), label = self.domain.shape, self.label_width
        if isinstance(layer, nn.Embedding):
            is_image = size == height * width and not isinstance(self.network, Generator)
            return ({"height": height, "width": width},) if is_image else ({"label": size},)
        if isinstance(self.network, Generator):
            z = self.network.latent_dim
            if isinstance(layer, nn.Linear) and size >= z + label:
                return ({"z": z}, {"label": label}, {"units": size - z - label})
        elif isinstance(layer, nn.Linear):
            if grid := self._grid(layer, size):
                return (grid,)
            if size == math.prod(self.domain.shape) + label:
                return ({"colors": colors, "height": height, "width": width}, {"label": label})
        elif isinstance(layer, nn.Conv2d) and size % (channels := colors + label // (height * width)) == 0:
            block = size // channels
            return ({"colors": colors, "block": block}, {"label": size - colors * block})
        return ({"units": size},)

    def _grid(self, layer: nn.Module, size: int) -> Segment | None:
        """The grid of a linear layer, scaled from the images of the network to those of the domain; None without it."""
        grid = dict(self.grids.get(layer, {}))
        for name in grid.keys() & {"colors", "height", "width"}:
            attribute = {"colors": "channels"}.get(name, name)
            new, base = getattr(self.domain.shape, attribute), getattr(self.base.shape, attribute)
            if grid[name] * new % base:
                return None
            grid[name] = grid[name] * new // base
        return grid if grid and math.prod(grid.values()) == size else None


def _grids(network: nn.Module, shape: ImageShape) -> dict[nn.Module, Segment]:
    """Finds linear layers next to a layer that flattens or unflattens: the grid of outputs or inputs of each."""
    grids: dict[nn.Module, Segment] = {}
    linear: nn.Linear | None = None
    flattened: Segment = {}
    for module in network.modules():
        if isinstance(module, nn.Linear):
            if math.prod(flattened.values()) == module.in_features:
                grids[module] = flattened
            linear, flattened = module, {}
        elif isinstance(module, FlattenLast):
            flattened = dict(zip(("height", "width", "features"), module.shape, strict=True))
        elif isinstance(module, UnflattenLast | nn.Unflatten):
            grid = _unflattened(module, shape)
            if linear is not None and math.prod(grid.values()) == linear.out_features:
                grids[linear] = grid
            linear = None
    return grids


def _unflattened(module: UnflattenLast | nn.Unflatten, shape: ImageShape) -> Segment:
    if isinstance(module, UnflattenLast):
        return dict(zip(("height", "width", "features"), module.shape, strict=True))
    sizes = tuple(module.unflattened_size)
    names = ("colors" if sizes == shape else "features", "height", "width")
    return dict(zip(names, sizes, strict=True)) if len(sizes) == len(names) else {"units": math.prod(sizes)}


@dataclass
class Conversion:
    """Converts axes from the images of `old` to those of `new`.

    Attributes:
        changes: the factors that were converted.
    """

    old: ImageDomain
    new: ImageDomain
    changes: set[str] = field(default_factory=set)

    def __call__(self, x: Tensor, old: Axis, new: Axis, *, summed: bool) -> tuple[Tensor, Tensor] | None:
        """Converts the first axis of x, [old size, …].

        Args:
            x: float64.
            old, new: the axis before and after.
            summed: whether the layer sums over this axis.

        Returns:
            The converted rows, [K, …], and their positions on the new axis, int64 [K]; there is no source for others.
            None if a factor cannot be converted.
        """
        if axis_size(old) == axis_size(new) and "classes" not in new[0]:
            return x, torch.arange(axis_size(new))
        if len(old) != len(new):
            return None
        rows, positions, start, end = [], [], 0, 0
        for old_segment, new_segment in zip(old, new, strict=True):
            length = math.prod(old_segment.values())
            converted = self._segment(x[start : start + length], old_segment, new_segment, summed=summed)
            if converted is None:
                return None
            rows.append(converted[0])
            positions.append(converted[1] + end)
            start, end = start + length, end + math.prod(new_segment.values())
        return torch.cat(rows), torch.cat(positions)

    def _segment(self, x: Tensor, old: Segment, new: Segment, *, summed: bool) -> tuple[Tensor, Tensor] | None:
        if list(old) != list(new):
            return None
        positions = torch.arange(math.prod(new.values())).view(*new.values())
        x = x.unflatten(0, tuple(old.values()))
        for dim, name in enumerate(new):
            if old[name] == new[name] and not (name == "classes" and self.old.class_names != self.new.class_names):
                continue
            if name not in ("classes", "colors", "height", "width", "label"):
                return None
            self.changes.add(name)
            matrix = self._matrix(name, old[name], new[name], summed=summed)
            x = torch.tensordot(matrix, x, dims=([1], [dim])).movedim(0, dim)
            positions = positions.narrow(dim, 0, len(matrix))
        return x.flatten(0, len(new) - 1), positions.flatten()

    def _matrix(self, name: str, old: int, new: int, *, summed: bool) -> Tensor:
        """The matrix of a factor, float64 [K, old]: the first K ≤ new items have a source."""
        if name == "classes":
            return _class_matrix(self.old.class_names, self.new.class_names)
        if name == "colors":
            return _color_matrix(old, new, summed=summed)
        if name == "label":
            return torch.eye(min(old, new), old, dtype=torch.float64)
        # a sum over positions reads the new image as if it were resized to the old one
        return _interpolation_matrix(new, old).T if summed else _interpolation_matrix(old, new)


def axis_size(axis: Axis) -> int:
    """Returns the number of entries of an axis."""
    return sum(math.prod(segment.values()) for segment in axis)


def _class_matrix(old: tuple[str, ...], new: tuple[str, ...]) -> Tensor:
    """A class of the same name is copied; any other starts as the mean of the old classes."""
    matrix = torch.full((len(new), len(old)), 1 / len(old), dtype=torch.float64)
    for row, name in zip(matrix, new, strict=True):
        if name in old:
            row.zero_()[old.index(name)] = 1
    return matrix


def _color_matrix(old: int, new: int, *, summed: bool) -> Tensor:
    """Gray is the mean of red, green and blue; alpha, the fourth channel, is dropped, or has no source."""
    old_colors, new_colors = min(old, 3), min(new, 3)
    if old_colors == new_colors:
        matrix = torch.eye(new_colors, dtype=torch.float64)
    else:
        weight = 1 / new_colors if summed else 1 / old_colors
        matrix = torch.full((new_colors, old_colors), weight, dtype=torch.float64)
    return nn.functional.pad(matrix, (0, old - old_colors))


def _interpolation_matrix(old: int, new: int) -> Tensor:
    """Linear interpolation of `old` to `new` equidistant positions, with a low-pass filter if there are fewer."""
    rows = torch.eye(old, dtype=torch.float64).view(1, 1, old, old)
    return interpolate(rows, (new, old), mode="bilinear", antialias=True)[0, 0]
