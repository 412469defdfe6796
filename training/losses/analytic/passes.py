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

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ganctl.training.device.streams import NO_LANES, Lanes
from ganctl.training.losses.analytic.layers import KINDS, Layer, Learnt
from ganctl.training.models.networks import Discriminator, judges_features


def is_piecewise_linear(network: nn.Module) -> bool:
    """Whether `FourPasses` knows every part of a discriminator, so that its gradients are exact."""
    if not judges_features(network) or any(is_parametrized(module) for module in network.modules()):
        return False
    return all(map(_is_known, network.features))


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and layer.bias is not None and not isinstance(layer.padding, str)
    if type(layer) is nn.Linear:
        return layer.bias is not None
    return type(layer) in KINDS


def move(network: Discriminator, images: Tensor) -> Tensor:
    """Images [N, C, H, W] as the network's first layer that computes sees them: once, in the place of every pass."""
    moves, computing = _split(network)
    for layer in moves:
        images = layer(images)
    last = isinstance(computing[0], nn.Conv2d) and computing[0].weight.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def unmove(network: Discriminator, gradients: Tensor, shape: torch.Size) -> Tensor:
    """∇ by what `move` gave, as ∇ by images of a shape."""
    for layer in reversed(_split(network)[0]):
        gradients = KINDS[type(layer)](layer, gradients.dtype).backward(gradients, gradients, gradients)
    return gradients.view(shape)


def _split(network: Discriminator) -> tuple[list[nn.Module], list[nn.Module]]:
    """The first layers, which compute nothing, and the others (at least one)."""
    layers = list(network.features)
    first = next((i for i, layer in enumerate(layers) if KINDS[type(layer)] is not Layer), len(layers) - 1)
    return layers[:first], layers[first:]


class FeaturePass:
    """The features of images in a forward pass, and the ways back from them.

    Passes may run in fewer bits than the parameters have (`dtype`). As under autocast, products of two such numbers are
    summed in 32 bits; what comes out (`features`, `logits`, all gradients) is in the parameters' format.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: Discriminator,
        images: Tensor,
        dtype: torch.dtype | None = None,
        lanes: Lanes = NO_LANES,
    ) -> None:
        """Images as `move` gives them. In the lanes gradients of parameters are made beside the signals' way."""
        self._lanes = lanes
        self._full = network.logit.weight.dtype
        self._few = dtype or self._full
        self._layers = [KINDS[type(module)](module, self._few) for module in _split(network)[1]]
        used_up = not isinstance(self._layers[0], Learnt)
        self._inputs = [images.to(self._few, copy=used_up)]  # of each layer, and what the last one gives
        for layer in self._layers:
            self._inputs.append(layer.forward(self._inputs[-1]))
        self.features = self._inputs[-1].to(self._full)

    @torch.no_grad()
    def backward(self, signal: Tensor, rows: slice) -> Tensor:
        """∇ by some of the images, from that by their features [n, F], which is used up."""
        signal = signal.to(self._few)
        for layer, inputs, outputs in zip(
            reversed(self._layers), reversed(self._inputs[:-1]), reversed(self._inputs[1:]), strict=True
        ):
            signal = layer.backward(signal, inputs[rows], outputs[rows])
        return signal.to(self._full)

    @torch.no_grad()
    def add_gradients(self, signal: Tensor, rows: slice, found: dict[Tensor, Tensor]) -> None:
        """Adds to the features' parameters' gradients those of a loss over some of the images, by plain backward.

        Args:
            signal: that loss's gradient by those rows of `features`, [n, F]; used up.
            found: the gradients, by parameter.
        """
        signal, kept = signal.to(self._few), list[Tensor]()
        layers = list(zip(self._layers, self._inputs[:-1], self._inputs[1:], strict=True))
        while not isinstance(layers[0][0], Learnt):
            del layers[0]  # no signal is wanted there
        for layer, inputs, outputs in reversed(layers):
            if isinstance(layer, Learnt):
                kept.append(signal)  # until the lanes have come so far, nothing else may take its memory
                with self._lanes.next():
                    layer.add_gradients(found, signal, inputs[rows])
            if layer is not layers[0][0]:
                signal = layer.backward(signal, inputs[rows], outputs[rows])
        self._lanes.join()


class FourPasses(FeaturePass):
    """The passes of one batch: construct it, read `logits`, take `image_gradients`, then `parameter_gradients`."""

    @torch.no_grad()
    def __init__(
        self,
        network: Discriminator,
        images: Tensor,
        labels: Tensor | None,
        dtype: torch.dtype | None = None,
        lanes: Lanes = NO_LANES,
    ) -> None:
        """The first pass. Images as `move` gives them; labels int64 [N], None for a discriminator without
        projection."""
        super().__init__(network, images, dtype, lanes)
        self._network, self._labels = network, labels
        self._head = network.logit.weight.expand(len(images), -1)
        if network.projection is not None:
            self._head = self._head + network.projection(labels)
        self.logits = (self.features * self._head).sum(dim=1) + network.logit.bias
        self._signals: list[Tensor] = []

    @torch.no_grad()
    def image_gradients(self) -> Tensor:
        """The second pass: ∇ₓ logitᵢ, [N, …], by the images as `move` gives them."""
        signal = self._head.to(self._few).contiguous()
        signals = []
        for layer, inputs, outputs in zip(
            reversed(self._layers), reversed(self._inputs[:-1]), reversed(self._inputs[1:]), strict=True
        ):
            signals.append(signal)
            signal = layer.backward(signal, inputs, outputs)
        self._signals = signals[::-1]
        return signal.to(self._full)

    @torch.no_grad()
    def parameter_gradients(self, slopes: Tensor, directions: Tensor) -> dict[Tensor, Tensor]:
        """The third and fourth pass: for parameters θ, ∂/∂θ of Σᵢ slopesᵢ logitᵢ + directionsᵢ · ∇ₓ logitᵢ, both fixed.

        Args:
            slopes: ∂loss/∂logitᵢ, [N].
            directions: κᵢ ∇ₓ logitᵢ for the penalty Σ κᵢ/2 ‖∇ₓ logitᵢ‖², as `image_gradients` gives ∇ₓ logitᵢ.
        """
        assert self._signals, "image_gradients comes first"
        found: dict[Tensor, Tensor] = {}
        images = self._inputs[0]
        u = torch.addcmul(directions, slopes.view(-1, *[1] * (images.dim() - 1)), images).to(self._few)
        few_slopes, kept = slopes.to(self._few), list[Tensor]()
        for layer, signal, outputs in zip(self._layers, self._signals, self._inputs[1:], strict=True):
            if isinstance(layer, Learnt):
                weight, bias = layer.parameters
                kept.append(u)  # as in `add_gradients`
                with self._lanes.next():
                    found[weight] = layer.weight_gradient(signal, u).to(self._full)
                    signal = signal.sum(dim=(2, 3)) if signal.dim() == 4 else signal
                    found[bias] = (few_slopes @ signal).to(self._full)
            u = layer.forward_again(u, few_slopes, outputs)
        logit, projection, u = self._network.logit, self._network.projection, u.to(self._full)
        found |= {logit.weight: u.sum(dim=0, keepdim=True), logit.bias: slopes.sum().view(1)}
        if projection is not None:
            assert self._labels is not None, "a projection needs labels"
            found[projection.weight] = torch.zeros_like(projection.weight).index_add_(0, self._labels, u)
        self._lanes.join()
        return found
