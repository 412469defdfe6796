"""Adaptive augmentation: a probability that rises while the discriminator overfits (Karras et al. 2020, section 3.1).

Karras et al. (arXiv:2006.06676) read overfitting from r_t = E[sign D(x)] on training images, with the target 0.6. That
needs a loss by which logits have a level: the relativistic loss depends on differences D(x) − D(G(z)) alone, so the
sign of D(x) is arbitrary. Here the signal is the share of pairs that the discriminator ranks right, P(D(x) > D(G(z))),
which every loss defines. It is 1/2 if the discriminator cannot tell the images apart. It rises when it memorizes the
training images, and falls when augmentation makes them harder to recognize.

If the logits of real and of generated images are normal with equal variances and means ± δ/2, r_t = 0.6 corresponds to
P = Φ(√2 · Φ⁻¹(0.8)) = 0.88. Measured with the relativistic loss and R1, R2, that is too high: overfitting shows at less
(docs/few-images.md), since the penalties keep the logits close together.
"""

import torch
from torch import Tensor

from ganctl.training.config.schema import AugmentSettings
from ganctl.training.distributed.ranks import Ranks

MAX_PROBABILITY = 0.8  # above it augmentations begin to show in generated images (Karras et al. 2020, section 2.2)
_DECAY = 0.9  # of the running accuracy per step: ten batches; Karras et al. average over four of 64


class AdaptiveProbability:
    """The probability of augmentation, updated on the device in each step.

    Attributes:
        value: the current probability, a scalar tensor at a fixed address.
    """

    def __init__(self, settings: AugmentSettings, device: torch.device) -> None:
        """Starts with a probability of 0."""
        self._target, self._ramp = settings.target, settings.ramp
        self._state = torch.tensor([0.0, settings.target], device=device)
        self.value, self._accuracy = self._state.unbind()

    @torch.no_grad()
    def update(self, accuracy: Tensor, images: int, ranks: Ranks) -> None:
        """Moves the probability up if the running accuracy is above the target, down if it is below.

        Args:
            accuracy: share of this rank's pairs that the discriminator ranked right, a scalar.
            images: images of this step over all ranks; after `ramp` of them, the probability has moved by up to 1.
            ranks: the ranks that share the batch.
        """
        accuracy = accuracy.to(self._state.dtype, copy=True)
        ranks.all_reduce_mean([accuracy])
        self._accuracy.lerp_(accuracy, 1 - _DECAY)
        direction = (self._accuracy - self._target).sign()
        self.value.add_(direction, alpha=images / self._ramp).clamp_(0, MAX_PROBABILITY)

    def state_dict(self) -> dict[str, Tensor]:
        return {"augment": self._state}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the state; that of a run without adaptive augmentation leaves it unchanged."""
        if "augment" in state:
            self._state.copy_(state["augment"])
