"""R1 and R2 of a piecewise linear discriminator: their exact gradient in four passes, where autograd takes six.

Between the kinks of its leaky ReLUs such a network is linear, so second derivatives of the activations are zero. With
m_l the slopes (1 or 0.2) at layer l, a_l its inputs, and g_l = ∂logit/∂(W_l a_l + b_l) the backward signal, the loss
Σᵢ ℓᵢ + Σᵢ κᵢ/2 ‖∇ₓ logitᵢ‖² has the gradients

    ∂/∂W_l = Σᵢ g_l,i ⊗ (cᵢ a_l,i + κᵢ ȧ_l,i) = Σᵢ g_l,i ⊗ u_l,i,        ∂/∂b_l = Σᵢ cᵢ g_l,i,

where cᵢ = ∂ℓ/∂logitᵢ, v = ∇ₓ logit, and ȧ is v passed forward through the same slopes (without biases): the derivative
of ½‖v‖² is that of v · ∇ₓ logit with v held fixed. By linearity u = c·a + κ·ȧ is one pass of c·x + κ·v, with biases
times c. So: one pass forward (a), one backward (g and v), one forward (u), one product for the weights. autograd makes
the backward signal twice and the weights' products twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized

from training.models import Discriminator, FlattenLast, judges_features

_convolution_backward = torch.ops.aten.convolution_backward
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


_MOVES = (nn.PixelUnshuffle, nn.Flatten, FlattenLast)  # layers that compute nothing


def is_piecewise_linear(network: nn.Module) -> bool:
    """Whether `FourPasses` knows every part of a discriminator, so that its gradients are exact."""
    if not judges_features(network) or any(is_parametrized(module) for module in network.modules()):
        return False
    return all(map(_is_known, network.features))


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:  # these themselves: a kind of one's own may compute something else
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and layer.bias is not None and not isinstance(layer.padding, str)
    if type(layer) is nn.Linear:
        return layer.bias is not None
    return type(layer) in (nn.LeakyReLU, *_MOVES)


class FourPasses:
    """The passes of one batch: construct it, read `logits`, take `image_gradients`, then `parameter_gradients`."""

    def __init__(self, network: Discriminator, images: Tensor, labels: Tensor | None) -> None:
        """The first pass. Images [N, C, H, W]; labels int64 [N], None for a discriminator without projection."""
        self._network, self._labels = network, labels
        self._layers = list(network.features)
        with torch.no_grad():
            while len(self._layers) > 1 and type(self._layers[0]) in _MOVES:  # once, in the place of every pass
                images = self._layers.pop(0)(images)
            self._images = images = images.contiguous(memory_format=_as_weights_lie(self._layers[0]))
            self._inputs = [images]  # of each layer, and what the last one gives
            for layer in self._layers:
                self._inputs.append(layer(self._inputs[-1]))
            self._head = network.logit.weight.repeat(len(images), 1)
            if network.projection is not None:
                self._head += network.projection(labels)
            self.features = self._inputs[-1]
            self.logits = (self.features * self._head).sum(dim=1) + network.logit.bias
        self._signals: list[Tensor] = []

    @torch.no_grad()
    def image_gradients(self) -> Tensor:
        """The second pass: ∇ₓ logitᵢ, [N, …], its pixels where the network's first layers move those of images."""
        signal = self._head
        signals = []
        for layer, inputs, outputs in zip(
            reversed(self._layers), reversed(self._inputs[:-1]), reversed(self._inputs[1:]), strict=True
        ):
            signals.append(signal)
            signal = _backward(layer, signal, inputs, outputs)
        self._signals = signals[::-1]
        return signal

    @torch.no_grad()
    def parameter_gradients(self, slopes: Tensor, directions: Tensor) -> dict[Tensor, Tensor]:
        """The third and fourth pass: for parameters θ, ∂/∂θ of Σᵢ slopesᵢ logitᵢ + directionsᵢ · ∇ₓ logitᵢ, both fixed.

        Args:
            slopes: ∂loss/∂logitᵢ, [N].
            directions: κᵢ ∇ₓ logitᵢ for the penalty Σ κᵢ/2 ‖∇ₓ logitᵢ‖², as `image_gradients` gives ∇ₓ logitᵢ.
        """
        assert self._signals, "image_gradients comes first"
        found: dict[Tensor, Tensor] = {}
        u = torch.addcmul(directions, slopes.view(-1, *[1] * (self._images.dim() - 1)), self._images)
        for layer, signal, outputs in zip(self._layers, self._signals, self._inputs[1:], strict=True):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None, "is_piecewise_linear has looked"
                found[layer.weight] = _weight_gradient(layer, signal, u)
                found[layer.bias] = slopes @ (signal.sum(dim=(2, 3)) if signal.dim() == 4 else signal)
            u = _forward(layer, u, slopes, outputs)
        logit, projection = self._network.logit, self._network.projection
        found |= {logit.weight: u.sum(dim=0, keepdim=True), logit.bias: slopes.sum().view(1)}
        if projection is not None:
            assert self._labels is not None, "a projection needs labels"
            found[projection.weight] = torch.zeros_like(projection.weight).index_add_(0, self._labels, u)
        return found

    @torch.no_grad()
    def add_feature_gradients(self, signal: Tensor, found: dict[Tensor, Tensor]) -> None:
        """Adds to the features' parameters' gradients those of a further loss over the first n images, by plain
        backward.

        Args:
            signal: that loss's gradient by the first n rows of `features`, [n, F]; used up.
            found: what `parameter_gradients` has given.
        """
        n = len(signal)
        layers = list(zip(self._layers, self._inputs[:-1], self._inputs[1:], strict=True))
        while not isinstance(layers[0][0], nn.Conv2d | nn.Linear):
            del layers[0]  # nothing to learn there, and no signal wanted
        for layer, inputs, outputs in reversed(layers):
            wanted = layer is not layers[0][0]
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None, "is_piecewise_linear has looked"
                signal, *own = _convolution_gradients(layer, signal, inputs[:n], (wanted, True, True))
                for parameter, gradient in zip((layer.weight, layer.bias), own, strict=True):
                    found[parameter].add_(gradient)
                continue
            if isinstance(layer, nn.Linear):
                assert layer.bias is not None, "is_piecewise_linear has looked"
                found[layer.weight].addmm_(signal.T, inputs[:n])
                found[layer.bias].add_(signal.sum(dim=0))
            if wanted:
                signal = _backward(layer, signal, inputs[:n], outputs[:n])


def _as_weights_lie(layer: nn.Module) -> torch.memory_format:
    weight = getattr(layer, "weight", None)
    last = weight is not None and weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _backward(layer: nn.Module, signal: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The signal at a layer's inputs, from that at its outputs."""
    match layer:
        case nn.LeakyReLU():
            return _times_slope(layer, signal, outputs)
        case nn.Linear():
            before: Tensor = signal @ layer.weight
            return before
        case nn.Conv2d():
            return _convolution_gradients(layer, signal, inputs, (True, False, False))[0]
        case nn.PixelUnshuffle():
            shuffled: Tensor = functional.pixel_shuffle(signal, layer.downscale_factor)
            return shuffled
        case nn.Flatten():
            return signal.view_as(inputs)
        case FlattenLast():
            places: Tensor = signal.unflatten(1, layer.shape)
            return places.permute(0, 3, 1, 2)
    raise AssertionError(f"is_piecewise_linear has let {layer} pass")


def _forward(layer: nn.Module, u: Tensor, slopes: Tensor, outputs: Tensor) -> Tensor:
    """A layer with the slopes that it had, and biases times `slopes`."""
    match layer:
        case nn.LeakyReLU():
            return _times_slope(layer, u, outputs)
        case nn.Linear():
            return torch.addr(u @ layer.weight.T, slopes, layer.bias)
        case nn.Conv2d():
            assert layer.bias is not None, "is_piecewise_linear has looked"
            products = functional.conv2d(u, layer.weight, None, layer.stride, layer.padding)
            return products.add_(slopes.view(-1, 1, 1, 1) * layer.bias.view(1, -1, 1, 1))
    moved: Tensor = layer(u)
    return moved


def _times_slope(layer: nn.LeakyReLU, values: Tensor, outputs: Tensor) -> Tensor:
    """`values` themselves, times 1 where the layer's output was positive, else its negative slope. In place: half of
    the memory that has to move."""
    product: Tensor = _leaky_relu_backward(values, outputs, layer.negative_slope, True, grad_input=values)
    return product


def _weight_gradient(layer: nn.Conv2d | nn.Linear, signal: Tensor, u: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        product: Tensor = signal.T @ u
        return product
    return _convolution_gradients(layer, signal, u, (False, True, False))[1]


def _convolution_gradients(layer: nn.Conv2d, signal: Tensor, inputs: Tensor, which: Sequence[bool]) -> Sequence[Tensor]:
    geometry = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
    biases = [layer.out_channels] if which[2] else None
    gradients: Sequence[Tensor] = _convolution_backward(signal, inputs, layer.weight, biases, *geometry, which)
    return gradients
