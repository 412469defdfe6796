"""Exact gradients of R1 and R2 for a piecewise linear discriminator in four passes, where autograd takes six.

Between the kinks of its leaky ReLUs such a network is linear, so second derivatives of the activations are zero. Let
m_l be the slopes (1 or 0.2) at layer l, a_l its inputs, and g_l = ∂logit/∂(W_l a_l + b_l) the backward signal. The loss
Σᵢ ℓᵢ + Σᵢ κᵢ/2 ‖∇ₓ logitᵢ‖² has the gradients

    ∂/∂W_l = Σᵢ g_l,i ⊗ (cᵢ a_l,i + κᵢ ȧ_l,i) = Σᵢ g_l,i ⊗ u_l,i,        ∂/∂b_l = Σᵢ cᵢ g_l,i,

where cᵢ = ∂ℓ/∂logitᵢ, v = ∇ₓ logit, and ȧ is v passed forward through the same slopes, without biases: the derivative
of ½‖v‖² is that of v · ∇ₓ logit with v held fixed. By linearity, one forward pass of c·x + κ·v, with biases times c,
gives the combined inputs u = c·a + κ·ȧ. So the passes are: forward (a), backward (g and v), forward (u), and the
products for the weights. autograd computes the backward signal twice and the products for the weights twice.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ganctl.training.device.streams import NO_STREAMS, StreamPool
from ganctl.training.losses.analytic.layers import LAYERS, Layer, ParameterLayer
from ganctl.training.models.base import Discriminator, exposes_features


def is_piecewise_linear(network: nn.Module) -> bool:
    """Returns whether `AnalyticR1R2` supports every layer of a discriminator."""
    if not exposes_features(network) or any(is_parametrized(module) for module in network.modules()):
        return False
    return all(map(_is_supported, network.features))


def _is_supported(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and layer.bias is not None and not isinstance(layer.padding, str)
    if type(layer) is nn.Linear:
        return layer.bias is not None
    return type(layer) in LAYERS


def to_first_layer(network: Discriminator, images: Tensor) -> Tensor:
    """Converts images [N, C, H, W] to the layout of the first layer with weights, once for all passes."""
    rearranging, computing = _split(network)
    for layer in rearranging:
        images = layer(images)
    first = computing[0]
    channels_last = isinstance(first, nn.Conv2d) and first.weight.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def from_first_layer(network: Discriminator, gradients: Tensor, shape: torch.Size) -> Tensor:
    """Converts the gradient of the output of `to_first_layer` to that of the images, which have `shape`."""
    for layer in reversed(_split(network)[0]):
        gradients = LAYERS[type(layer)](layer, gradients.dtype).backward(gradients, gradients, gradients)
    return gradients.view(shape)


def _split(network: Discriminator) -> tuple[list[nn.Module], list[nn.Module]]:
    """Splits the layers into the leading ones that only rearrange elements, and the others (at least one)."""
    layers = list(network.features)
    first = next((i for i, layer in enumerate(layers) if LAYERS[type(layer)] is not Layer), len(layers) - 1)
    return layers[:first], layers[first:]


class FeaturePass:
    """A forward pass from images to features, and the backward passes from features.

    A pass may use a narrower dtype than the parameters. As under autocast, its products are accumulated in fp32.
    Results (`features`, `logits`, all gradients) have the dtype of the parameters.

    Attributes:
        features: [N, F].
    """

    @torch.no_grad()
    def __init__(
        self, network: Discriminator, images: Tensor, dtype: torch.dtype | None = None, streams: StreamPool = NO_STREAMS
    ) -> None:
        """Runs the forward pass.

        Args:
            network: must be piecewise linear (`is_piecewise_linear`).
            images: output of `to_first_layer`.
            dtype: of the passes; None for the parameters' dtype.
            streams: side streams for the kernels of parameter gradients.
        """
        self._network, self._streams = network, streams
        self._param_dtype = network.logit.weight.dtype
        self._pass_dtype = dtype or self._param_dtype
        self._layers = [LAYERS[type(module)](module, self._pass_dtype) for module in _split(network)[1]]
        overwritten = not isinstance(self._layers[0], ParameterLayer)
        self._images = activations = images.to(self._pass_dtype, copy=overwritten)
        self._trace: list[tuple[Layer, Tensor, Tensor]] = []  # each layer with its inputs and outputs
        for layer in self._layers:
            inputs, activations = activations, layer.forward(activations)
            self._trace.append((layer, inputs, activations))
        self.features = activations.to(self._param_dtype)

    @torch.no_grad()
    def backward(self, grad_out: Tensor, rows: slice, grads_out: list[Tensor] | None = None) -> Tensor:
        """The gradient of some of the images, in the layout of `to_first_layer`.

        Args:
            grad_out: the gradient of `features[rows]`, [n, F]; may be overwritten.
            rows: the images.
            grads_out: receives the gradients of the outputs of all layers, the last layer first.
        """
        grad_out = grad_out.to(self._pass_dtype)
        for layer, inputs, outputs in reversed(self._trace):
            if grads_out is not None:
                grads_out.append(grad_out)
            grad_out = layer.backward(grad_out, inputs[rows], outputs[rows])
        return grad_out.to(self._param_dtype)

    @torch.no_grad()
    def add_gradients(self, grad_out: Tensor, rows: slice, grads: dict[Tensor, Tensor]) -> None:
        """Adds the parameter gradients of a loss over some of the images, by a plain backward pass.

        Args:
            grad_out: the gradient of `features[rows]`, [n, F]; may be overwritten.
            rows: the images of the loss.
            grads: the gradient of each parameter, updated in place.
        """
        grad_out, kept = grad_out.to(self._pass_dtype), list[Tensor]()
        first = next(layer for layer in self._layers if isinstance(layer, ParameterLayer))
        for layer, inputs, outputs in reversed(self._trace):
            if isinstance(layer, ParameterLayer):
                kept.append(grad_out)  # its memory must not be reused before `join`
                with self._streams.next():
                    layer.add_gradients(grads, grad_out, inputs[rows])
            if layer is first:
                break  # the layers before need no gradient
            grad_out = layer.backward(grad_out, inputs[rows], outputs[rows])
        self._streams.join()


class AnalyticR1R2(FeaturePass):
    """The four passes of one batch: construct it (first pass), call `image_gradients`, then `parameter_gradients`."""

    @torch.no_grad()
    def image_gradients(self, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Runs the second pass.

        Args:
            labels: int64 [N]; None for a discriminator without projection.

        Returns:
            The logits [N], and ∇ₓ logitᵢ in the layout of `to_first_layer`, [N, …].
        """
        head = self._network.logit.weight.expand(len(self.features), -1)
        if self._network.projection is not None:
            head = head + self._network.projection(labels)
        logits = (self.features * head).sum(dim=1) + self._network.logit.bias
        self._labels, self._grads_out = labels, list[Tensor]()
        return logits, self.backward(head.contiguous(), slice(None), self._grads_out)

    @torch.no_grad()
    def parameter_gradients(self, dloss_dlogits: Tensor, directions: Tensor) -> dict[Tensor, Tensor]:
        """Runs the third and fourth pass: gradients of Σᵢ dloss_dlogitsᵢ logitᵢ + directionsᵢ · ∇ₓ logitᵢ.

        Both arguments are constants in this sum.

        Args:
            dloss_dlogits: ∂loss/∂logitᵢ, [N].
            directions: κᵢ ∇ₓ logitᵢ for the penalty Σ κᵢ/2 ‖∇ₓ logitᵢ‖², in the layout of `image_gradients`, [N, …].

        Returns:
            The gradient of each parameter of the layers, the logit head and the projection.
        """
        grads: dict[Tensor, Tensor] = {}
        by_image = dloss_dlogits.view(-1, *[1] * (self._images.dim() - 1))
        combined = torch.addcmul(directions, by_image, self._images).to(self._pass_dtype)  # u of the derivation above
        narrow_dloss, kept = dloss_dlogits.to(self._pass_dtype), list[Tensor]()
        for (layer, _, outputs), grad_out in zip(self._trace, reversed(self._grads_out), strict=True):
            if isinstance(layer, ParameterLayer):
                weight, bias = layer.parameters
                kept.append(combined)  # as in `add_gradients`
                with self._streams.next():
                    grads[weight] = layer.weight_gradient(grad_out, combined).to(self._param_dtype)
                    grad_out = grad_out.sum(dim=(2, 3)) if grad_out.dim() == 4 else grad_out
                    grads[bias] = (narrow_dloss @ grad_out).to(self._param_dtype)
            combined = layer.forward_linearized(combined, narrow_dloss, outputs)
        logit, projection, combined = self._network.logit, self._network.projection, combined.to(self._param_dtype)
        grads |= {logit.weight: combined.sum(dim=0, keepdim=True), logit.bias: dloss_dlogits.sum().view(1)}
        if projection is not None:
            assert self._labels is not None, "a projection needs labels"
            grads[projection.weight] = torch.zeros_like(projection.weight).index_add_(0, self._labels, combined)
        self._streams.join()
        return grads
