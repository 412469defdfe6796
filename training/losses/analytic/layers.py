"""The layers that `piecewise.py` knows: forward, the signal backward, forward again with the slopes that there were.

Passes may run in fewer bits than the parameters have: a layer holds its weights in the passes' format.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ganctl.training.models.networks import FlattenLast

_convolution_backward = torch.ops.aten.convolution_backward
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


class Layer:
    """One that computes nothing: it moves numbers."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        """The network's own pass; `x` may be used up."""
        moved: Tensor = self._module(x)
        return moved

    def backward(self, signal: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The signal at the inputs, from that at the outputs (which may be used up)."""
        match self._module:
            case nn.PixelUnshuffle():
                return functional.pixel_shuffle(signal, self._module.downscale_factor)
            case FlattenLast():
                places: Tensor = signal.unflatten(1, self._module.shape)
                return places.permute(0, 3, 1, 2)
        return signal.view_as(inputs)

    def forward_again(self, u: Tensor, slopes: Tensor, outputs: Tensor) -> Tensor:
        """With the slopes that there were at `outputs`, and biases times `slopes` [N]; `u` may be used up."""
        return self.forward(u)


class Leaky(Layer):
    """A leaky ReLU, in place: half of the memory that has to move. Its outputs tell its slopes as its inputs do."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self._module, nn.LeakyReLU)
        return functional.leaky_relu_(x, self._module.negative_slope)

    def backward(self, signal: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return self._times_slope(signal, outputs)

    def forward_again(self, u: Tensor, slopes: Tensor, outputs: Tensor) -> Tensor:
        return self._times_slope(u, outputs)

    def _times_slope(self, values: Tensor, outputs: Tensor) -> Tensor:
        """`values` themselves, times 1 where the layer's output was positive, else its negative slope."""
        assert isinstance(self._module, nn.LeakyReLU)
        product: Tensor = _leaky_relu_backward(values, outputs, self._module.negative_slope, True, grad_input=values)
        return product


class Learnt(Layer, ABC):
    """One with weights and biases."""

    def __init__(self, module: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(module, dtype)
        assert module.bias is not None, "is_piecewise_linear has looked"
        self.parameters = (module.weight, module.bias)
        self._weight, self._bias = module.weight.to(dtype), module.bias.to(dtype)

    @abstractmethod
    def weight_gradient(self, signal: Tensor, u: Tensor) -> Tensor:
        """Σᵢ signalᵢ ⊗ uᵢ, as the layer shares its weights among places."""

    def add_gradients(self, found: dict[Tensor, Tensor], signal: Tensor, inputs: Tensor) -> None:
        """Adds the parameters' gradients to what was `found` of them."""
        weight, bias = self.parameters
        spread = tuple(range(2, signal.dim()))
        for parameter, gradient in (
            (weight, self.weight_gradient(signal, inputs)),
            (bias, signal.sum(dim=(0, *spread))),
        ):
            if parameter in found:
                found[parameter].add_(gradient)
            else:
                found[parameter] = gradient.to(parameter.dtype)


class Linear(Learnt):
    """A matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, self._weight.T).add_(self._bias)  # `linear` writes the bias first: 2 to 4 % slower on a CPU

    def backward(self, signal: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return signal @ self._weight

    def forward_again(self, u: Tensor, slopes: Tensor, outputs: Tensor) -> Tensor:
        return torch.addr(u @ self._weight.T, slopes, self._bias)

    def weight_gradient(self, signal: Tensor, u: Tensor) -> Tensor:
        return signal.T @ u

    def add_gradients(self, found: dict[Tensor, Tensor], signal: Tensor, inputs: Tensor) -> None:
        weight, bias = self.parameters
        if weight not in found or weight.dtype != signal.dtype:
            super().add_gradients(found, signal, inputs)
            return
        found[weight].addmm_(signal.T, inputs)  # nothing between that would have to move
        found[bias].add_(signal.sum(dim=0))


class Convolution(Learnt):
    """A convolution over places."""

    def __init__(self, module: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(module, dtype)
        self._stride, self._padding = module.stride, cast(tuple[int, ...], module.padding)
        self._geometry = (module.stride, module.padding, module.dilation, False, (0, 0), module.groups)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def backward(self, signal: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return self._gradients(signal, inputs, (True, False))[0]

    def forward_again(self, u: Tensor, slopes: Tensor, outputs: Tensor) -> Tensor:
        products = functional.conv2d(u, self._weight, None, self._stride, self._padding)
        return products.addcmul_(slopes.view(-1, 1, 1, 1), self._bias.view(1, -1, 1, 1))

    def weight_gradient(self, signal: Tensor, u: Tensor) -> Tensor:
        return self._gradients(signal, u, (False, True))[1]

    def _gradients(self, signal: Tensor, inputs: Tensor, which: tuple[bool, bool]) -> Sequence[Tensor]:
        """By inputs and weights, of these which are wanted."""
        found: Sequence[Tensor] = _convolution_backward(
            signal, inputs, self._weight, None, *self._geometry, (*which, False)
        )
        return found


KINDS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    nn.Conv2d: Convolution,
    nn.LeakyReLU: Leaky,
    nn.PixelUnshuffle: Layer,
    nn.Flatten: Layer,
    FlattenLast: Layer,
}  # these themselves: a kind of one's own may compute something else
