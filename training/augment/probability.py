"""Adaptive augmentation: a probability that rises while the discriminator overfits (Karras et al. 2020, section 3).

The discriminator overfits if it prefers the training images to held-out ones. Karras et al. (arXiv:2006.06676, eq. 1)
compare means, r_v = (E[D train] − E[D held-out]) / (E[D train] − E[D generated]), or, without held-out images, take
r_t = E[sign(D train)]. r_t needs a loss by which logits have a level; the relativistic loss depends on differences of
logits alone, so the sign of one logit is arbitrary. r_v divides by a difference that passes 0. So the ranks are
compared here: r = E[sign(D train − D held-out)] over all pairs. Every loss defines it. r is 0 if the discriminator has
learned nothing about its training images that does not hold for others, and 1 if it prefers each of them.
"""

import torch
from torch import Tensor

from ganctl.training.config.schema import AugmentSettings
from ganctl.training.distributed.ranks import Ranks

HELD_OUT = 8  # held-out images per step: a forward pass costs about 1 % of a step
MAX_PROBABILITY = 0.8  # above it augmentations begin to show in generated images (Karras et al. 2020, section 2.2)
_DECAY = 0.98  # of the running r, per step: 50 steps have 400 held-out images, for a standard error of 0.03


class AdaptiveProbability:
    """The probability of augmentation, updated on the device in each step.

    Attributes:
        value: the current probability, a scalar tensor at a fixed address.
        overfitting: the running r, −1 … 1, a scalar tensor at a fixed address.
    """

    def __init__(self, settings: AugmentSettings, device: torch.device) -> None:
        """Starts with a probability of 0."""
        self._target, self._ramp = settings.target, settings.ramp
        self._state = torch.zeros(2, device=device)
        self.value, self.overfitting = self._state.unbind()

    @torch.no_grad()
    def update(self, train: Tensor, held_out: Tensor, ranks: Ranks) -> None:
        """Moves the probability up if the running r is above the target, down if it is below.

        Args:
            train: logits of this rank's training images, [N].
            held_out: logits of held-out images, the same on all ranks, [M].
            ranks: the ranks that share the batch.
        """
        r = (train[:, None] - held_out).sign().mean().to(self._state.dtype)
        ranks.all_reduce_mean([r])
        self.overfitting.lerp_(r, 1 - _DECAY)
        direction = (self.overfitting - self._target).sign()
        self.value.add_(direction, alpha=len(train) * ranks.size / self._ramp).clamp_(0, MAX_PROBABILITY)

    def state_dict(self) -> dict[str, Tensor]:
        return {"augment": self._state}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the state; that of a run without adaptive augmentation leaves it unchanged."""
        if "augment" in state:
            self._state.copy_(state["augment"])
