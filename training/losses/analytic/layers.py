"""Layers with hand-derived gradients: forward, backward, and a second forward pass with the slopes of the first one.

A pass may use a narrower dtype than the parameters; a layer holds a copy of its weights in the dtype of the passes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ganctl.training.models.conv import FlattenLast

_convolution_backward = torch.ops.aten.convolution_backward
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


class Layer:
    """A layer that only rearranges elements; base class of the others."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module = module

    def forward(self, x: Tensor) -> Tensor:
        """The module's forward pass; may overwrite `x`."""
        rearranged: Tensor = self._module(x)
        return rearranged

    def backward(self, grad_out: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The gradient of the inputs, from `grad_out`, the gradient of the outputs; may overwrite `grad_out`."""
        match self._module:
            case nn.PixelUnshuffle():
                return functional.pixel_shuffle(grad_out, self._module.downscale_factor)
            case FlattenLast():
                channels_last: Tensor = grad_out.unflatten(1, self._module.shape)
                return channels_last.permute(0, 3, 1, 2)
        return grad_out.view_as(inputs)

    def forward_linearized(self, inputs: Tensor, dloss_dlogits: Tensor, outputs: Tensor) -> Tensor:
        """Forward pass with the slopes at `outputs`, and biases times `dloss_dlogits` [N]; may overwrite `inputs`."""
        return self.forward(inputs)


class LeakyReLU(Layer):
    """A leaky ReLU, in place for half of the memory traffic; the sign of its outputs determines the slope."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self._module, nn.LeakyReLU)
        return functional.leaky_relu_(x, self._module.negative_slope)

    def backward(self, grad_out: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return self._times_slope(grad_out, outputs)

    def forward_linearized(self, inputs: Tensor, dloss_dlogits: Tensor, outputs: Tensor) -> Tensor:
        return self._times_slope(inputs, outputs)

    def _times_slope(self, values: Tensor, outputs: Tensor) -> Tensor:
        """Multiplies `values`, in place, by 1 where the layer's output was positive, else by its negative slope."""
        assert isinstance(self._module, nn.LeakyReLU)
        product: Tensor = _leaky_relu_backward(values, outputs, self._module.negative_slope, True, grad_input=values)
        return product


class ParameterLayer(Layer, ABC):
    """A layer with weights and biases."""

    def __init__(self, module: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(module, dtype)
        assert module.bias is not None, "is_piecewise_linear requires a bias"
        self.parameters = (module.weight, module.bias)
        self._weight, self._bias = module.weight.to(dtype), module.bias.to(dtype)

    @abstractmethod
    def weight_gradient(self, grad_out: Tensor, inputs: Tensor) -> Tensor:
        """Σᵢ grad_outᵢ ⊗ inputsᵢ, summed over the positions that share the weights."""

    def add_gradients(self, grads: dict[Tensor, Tensor], grad_out: Tensor, inputs: Tensor) -> None:
        """Adds the gradients of weight and bias to `grads`, by parameter."""
        positions = tuple(range(2, grad_out.dim()))
        gradients = (self.weight_gradient(grad_out, inputs), grad_out.sum(dim=(0, *positions)))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if parameter in grads:
                grads[parameter].add_(gradient)
            else:
                grads[parameter] = gradient.to(parameter.dtype)


class Linear(ParameterLayer):
    """A linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, self._weight.T).add_(self._bias)  # `functional.linear` is 2 to 4 % slower on a CPU

    def backward(self, grad_out: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return grad_out @ self._weight

    def forward_linearized(self, inputs: Tensor, dloss_dlogits: Tensor, outputs: Tensor) -> Tensor:
        return torch.addr(inputs @ self._weight.T, dloss_dlogits, self._bias)

    def weight_gradient(self, grad_out: Tensor, inputs: Tensor) -> Tensor:
        return grad_out.T @ inputs

    def add_gradients(self, grads: dict[Tensor, Tensor], grad_out: Tensor, inputs: Tensor) -> None:
        weight, bias = self.parameters
        if weight not in grads or weight.dtype != grad_out.dtype:
            super().add_gradients(grads, grad_out, inputs)
            return
        grads[weight].addmm_(grad_out.T, inputs)  # in place, without a temporary
        grads[bias].add_(grad_out.sum(dim=0))


class Convolution(ParameterLayer):
    """A 2d convolution."""

    def __init__(self, module: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__(module, dtype)
        self._stride, self._padding = module.stride, cast(tuple[int, ...], module.padding)
        self._geometry = (module.stride, module.padding, module.dilation, False, (0, 0), module.groups)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self._weight, self._bias, self._stride, self._padding)

    def backward(self, grad_out: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return self._gradients(grad_out, inputs, (True, False))[0]

    def forward_linearized(self, inputs: Tensor, dloss_dlogits: Tensor, outputs: Tensor) -> Tensor:
        products = functional.conv2d(inputs, self._weight, None, self._stride, self._padding)
        return products.addcmul_(dloss_dlogits.view(-1, 1, 1, 1), self._bias.view(1, -1, 1, 1))

    def weight_gradient(self, grad_out: Tensor, inputs: Tensor) -> Tensor:
        return self._gradients(grad_out, inputs, (False, True))[1]

    def _gradients(self, grad_out: Tensor, inputs: Tensor, mask: tuple[bool, bool]) -> Sequence[Tensor]:
        """Gradients of the inputs and of the weights; `mask` selects which of the two are computed."""
        grads: Sequence[Tensor] = _convolution_backward(
            grad_out, inputs, self._weight, None, *self._geometry, (*mask, False)
        )
        return grads


# by exact type: a subclass may compute something else
LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    nn.Conv2d: Convolution,
    nn.LeakyReLU: LeakyReLU,
    nn.PixelUnshuffle: Layer,
    nn.Flatten: Layer,
    FlattenLast: Layer,
}
