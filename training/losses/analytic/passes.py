"""R1 and R2 of a piecewise linear discriminator: their exact gradient in four passes, where autograd takes six.

Between the kinks of its leaky ReLUs such a network is linear, so second derivatives of the activations are zero. With
m_l the slopes (1 or 0.2) at layer l, a_l its inputs, and g_l = ∂logit/∂(W_l a_l + b_l) the backward signal, the loss
Σᵢ ℓᵢ + Σᵢ κᵢ/2 ‖∇ₓ logitᵢ‖² has the gradients

    ∂/∂W_l = Σᵢ g_l,i ⊗ (cᵢ a_l,i + κᵢ ȧ_l,i) = Σᵢ g_l,i ⊗ u_l,i,        ∂/∂b_l = Σᵢ cᵢ g_l,i,

where cᵢ = ∂ℓ/∂logitᵢ, v = ∇ₓ logit, and ȧ is v passed forward through the same slopes (without biases): the derivative
of ½‖v‖² is that of v · ∇ₓ logit with v held fixed. By linearity u = c·a + κ·ȧ is one pass of c·x + κ·v, with biases
times c. So: one pass forward (a), one backward (g and v), one forward (u), one product for the weights. autograd makes
the backward grad_out twice and the weights' products twice.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.losses.analytic.layers import LAYERS, Layer, ParameterLayer
from ganctl.training.models.base import Discriminator, judges_features


def is_piecewise_linear(network: nn.Module) -> bool:
    """Whether `AnalyticR1R2` knows every part of a discriminator, so that its gradients are exact."""
    if not judges_features(network) or any(is_parametrized(module) for module in network.modules()):
        return False
    return all(map(_is_known, network.features))


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and layer.bias is not None and not isinstance(layer.padding, str)
    if type(layer) is nn.Linear:
        return layer.bias is not None
    return type(layer) in LAYERS


def to_first_layer(network: Discriminator, images: Tensor) -> Tensor:
    """Images [N, C, H, W] as the first layer with weights reads them: rearranged once, not in every pass."""
    moves, computing = _split(network)
    for layer in moves:
        images = layer(images)
    last = isinstance(computing[0], nn.Conv2d) and computing[0].weight.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def from_first_layer(network: Discriminator, gradients: Tensor, shape: torch.Size) -> Tensor:
    """The gradient by images of `shape`, from that by the output of `to_first_layer`."""
    for layer in reversed(_split(network)[0]):
        gradients = LAYERS[type(layer)](layer, gradients.dtype).backward(gradients, gradients, gradients)
    return gradients.view(shape)


def _split(network: Discriminator) -> tuple[list[nn.Module], list[nn.Module]]:
    """The first layers, which compute nothing, and the others (at least one)."""
    layers = list(network.features)
    first = next((i for i, layer in enumerate(layers) if LAYERS[type(layer)] is not Layer), len(layers) - 1)
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
        streams: StreamPool = NO_STREAMS,
    ) -> None:
        """Images as `to_first_layer` gives them; gradients of parameters are computed in the `streams`."""
        self._streams = streams
        self._full = network.logit.weight.dtype
        self._few = dtype or self._full
        self._layers = [LAYERS[type(module)](module, self._few) for module in _split(network)[1]]
        used_up = not isinstance(self._layers[0], ParameterLayer)
        self._inputs = [images.to(self._few, copy=used_up)]  # of each layer, and what the last one gives
        for layer in self._layers:
            self._inputs.append(layer.forward(self._inputs[-1]))
        self.features = self._inputs[-1].to(self._full)

    @torch.no_grad()
    def backward(self, grad_out: Tensor, rows: slice) -> Tensor:
        """∇ by some of the images, from that by their features [n, F], which is used up."""
        grad_out = grad_out.to(self._few)
        for layer, inputs, outputs in zip(
            reversed(self._layers), reversed(self._inputs[:-1]), reversed(self._inputs[1:]), strict=True
        ):
            grad_out = layer.backward(grad_out, inputs[rows], outputs[rows])
        return grad_out.to(self._full)

    @torch.no_grad()
    def add_gradients(self, grad_out: Tensor, rows: slice, grads: dict[Tensor, Tensor]) -> None:
        """Adds to the features' parameters' gradients those of a loss over some of the images, by plain backward.

        Args:
            grad_out: that loss's gradient by those rows of `features`, [n, F]; used up.
            grads: the gradients, by parameter.
        """
        grad_out, kept = grad_out.to(self._few), list[Tensor]()
        layers = list(zip(self._layers, self._inputs[:-1], self._inputs[1:], strict=True))
        while not isinstance(layers[0][0], ParameterLayer):
            del layers[0]  # no grad_out is wanted there
        for layer, inputs, outputs in reversed(layers):
            if isinstance(layer, ParameterLayer):
                kept.append(grad_out)  # until the streams have come so far, nothing else may take its memory
                with self._streams.next():
                    layer.add_gradients(grads, grad_out, inputs[rows])
            if layer is not layers[0][0]:
                grad_out = layer.backward(grad_out, inputs[rows], outputs[rows])
        self._streams.join()


class AnalyticR1R2(FeaturePass):
    """The passes of one batch: construct it, read `logits`, take `image_gradients`, then `parameter_gradients`."""

    @torch.no_grad()
    def __init__(
        self,
        network: Discriminator,
        images: Tensor,
        labels: Tensor | None,
        dtype: torch.dtype | None = None,
        streams: StreamPool = NO_STREAMS,
    ) -> None:
        """The first pass. Images as `to_first_layer` gives them; labels int64 [N], None for a discriminator without
        projection."""
        super().__init__(network, images, dtype, streams)
        self._network, self._labels = network, labels
        self._head = network.logit.weight.expand(len(images), -1)
        if network.projection is not None:
            self._head = self._head + network.projection(labels)
        self.logits = (self.features * self._head).sum(dim=1) + network.logit.bias
        self._grads_out: list[Tensor] = []

    @torch.no_grad()
    def image_gradients(self) -> Tensor:
        """The second pass: ∇ₓ logitᵢ, [N, …], by the images as `to_first_layer` gives them."""
        grad_out = self._head.to(self._few).contiguous()
        grads_out = []
        for layer, inputs, outputs in zip(
            reversed(self._layers), reversed(self._inputs[:-1]), reversed(self._inputs[1:]), strict=True
        ):
            grads_out.append(grad_out)
            grad_out = layer.backward(grad_out, inputs, outputs)
        self._grads_out = grads_out[::-1]
        return grad_out.to(self._full)

    @torch.no_grad()
    def parameter_gradients(self, dloss_dlogits: Tensor, directions: Tensor) -> dict[Tensor, Tensor]:
        """The third and fourth pass: for parameters θ, ∂/∂θ of Σᵢ slopesᵢ logitᵢ + directionsᵢ · ∇ₓ logitᵢ, both fixed.

        Args:
            dloss_dlogits: ∂loss/∂logitᵢ, [N].
            directions: κᵢ ∇ₓ logitᵢ for the penalty Σ κᵢ/2 ‖∇ₓ logitᵢ‖², as `image_gradients` gives ∇ₓ logitᵢ.
        """
        assert self._grads_out, "image_gradients comes first"
        grads: dict[Tensor, Tensor] = {}
        images = self._inputs[0]
        u = torch.addcmul(directions, dloss_dlogits.view(-1, *[1] * (images.dim() - 1)), images).to(self._few)
        few_dloss, kept = dloss_dlogits.to(self._few), list[Tensor]()
        for layer, grad_out, outputs in zip(self._layers, self._grads_out, self._inputs[1:], strict=True):
            if isinstance(layer, ParameterLayer):
                weight, bias = layer.parameters
                kept.append(u)  # as in `add_gradients`
                with self._streams.next():
                    grads[weight] = layer.weight_gradient(grad_out, u).to(self._full)
                    grad_out = grad_out.sum(dim=(2, 3)) if grad_out.dim() == 4 else grad_out
                    grads[bias] = (few_dloss @ grad_out).to(self._full)
            u = layer.forward_again(u, few_dloss, outputs)
        logit, projection, u = self._network.logit, self._network.projection, u.to(self._full)
        grads |= {logit.weight: u.sum(dim=0, keepdim=True), logit.bias: dloss_dlogits.sum().view(1)}
        if projection is not None:
            assert self._labels is not None, "a projection needs labels"
            grads[projection.weight] = torch.zeros_like(projection.weight).index_add_(0, self._labels, u)
        self._streams.join()
        return grads
