"""Feature matching: the generator is told where its images differ from real ones in means and variances of what the
discriminator sees in them.

A critic of single images hardly notices that all of them vary a little too little. Salimans et al. 2016
(arXiv:1606.03498, section 3.1) match means of features between batches, Mroueh et al. 2017 (arXiv:1702.08398)
covariances too. Here each class has its means, all share the variances around them, and both are of the last hundred
batches: of one batch they are mostly noise, and a generator would vary less to have less of it.

The same statistics tell which images are rare, and these may count more with both networks (`rarity`).
"""

import torch
from torch import Tensor

from ganctl.training.distributed.ranks import Ranks

_KEPT = 0.99  # of the statistics, from step to step
_VARIANCE = 3.0  # weight of the variances, the means having 1
_LEAST = 0.01  # share of the mean variance that a feature is taken to have at least: some hardly vary
_LEAST_RARE, _MOST_RARE = 0.2, 5.0  # times as much as the others an image counts


class FeatureMatching:
    """Running statistics of C classes (1 where there are none) in F features, and the loss that they give."""

    def __init__(self, weight: float, classes: int, features: int, device: torch.device) -> None:
        self._weight, self._numbers = weight, torch.arange(classes, device=device).unsqueeze(1)
        # of each class: how many images, and of real and of generated ones the sums of features and of their squares;
        # in double precision, since variances are differences of squares
        self._statistics = torch.zeros(classes, 1 + 4 * features, device=device, dtype=torch.float64)
        # what they come to, always in the same memory (a captured step reads it there): of real and of generated images
        self._means = torch.zeros(2, classes, features, device=device)
        self._variances = torch.zeros(2, features, device=device)
        self._shares = torch.zeros(classes, 1, device=device, dtype=torch.float64)
        self._zero, self._one = torch.zeros((), device=device, dtype=torch.float64), torch.ones((), device=device)
        self._summarise()

    def loss(self, real: Tensor, fake: Tensor, labels: Tensor, ranks: Ranks) -> Tensor:
        """The generator's loss, weighted, after this step's batch has been counted.

        It is Σ_c p_c · mean_j ln(1 + (m'_cj − m_cj)² / v_j) + 3/2 · mean_j (2 (v'_j − v_j) / (v'_j + v_j))² with means
        m, variances v around them and shares p of the classes, v' and m' those of generated images. Both are squares of
        relative differences where these are small, and bounded in their gradients where they are not: in the first
        steps real features hardly vary. Its gradient is that of the running statistics, as if all their images were
        this batch's.

        Args:
            real, fake: features [N, F] of this rank's images; only those of the generated ones are differentiated.
            labels: int64 [N], shared by both.
            ranks: those whose images are counted together.
        """
        value, slope = self._count(real, fake.detach(), labels, ranks)
        pulled = (fake * slope).sum()
        loss: Tensor = value + pulled - pulled.detach()
        return loss

    @torch.no_grad()
    def _count(self, real: Tensor, fake: Tensor, labels: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """The loss after these images, and its gradient by the features of the generated ones, [N, F]."""
        both = torch.cat([real, fake], dim=1).double()
        batch = torch.cat([both, both.square()], dim=1)
        members = (labels == self._numbers).to(batch.dtype)  # one_hot would look at the labels, on a CPU
        now = torch.cat([members.sum(dim=1, keepdim=True), members @ batch], dim=1)
        ranks.all_reduce_mean([now])
        now = torch.where(now.isfinite().all(), now, self._zero)  # fp16 may overflow: that update is left out
        self._statistics.mul_(_KEPT).add_(now, alpha=ranks.size)  # of the whole batch, however many share it
        self._summarise()
        (real_means, fake_means), (real_variances, fake_variances) = self._means, self._variances
        apart, total = fake_means - real_means, real_variances + fake_variances
        wider, squared = 2 * (fake_variances - real_variances) / total, apart.square()
        value = (self._shares * (squared / real_variances).log1p()).sum() / fake.shape[1]
        value = value.to(fake.dtype).add_(wider.square().mean(), alpha=_VARIANCE / 2)
        weight = self._weight / fake.numel()  # of each number in the means over images and features
        spread = real_variances / total.square() * wider * (8 * _VARIANCE * weight)
        pull = torch.addcmul(2 * weight * apart / (real_variances + squared), spread, fake_means, value=-1)
        return self._weight * value, torch.addcmul(pull[labels], spread, fake)

    @torch.no_grad()
    def sample_weight(self, features: Tensor, labels: Tensor, power: float) -> Tensor:
        """How much more than others images are to count: (mean_j (x_j − m_cj)² / v_j)^power with the means m of their
        classes and the variances v of real images (around 1, as the mean over real images is with power 1), no less
        than 1/5 and no more than 5; 1 for classes of which nothing has been counted yet.

        Args:
            features: [..., N, F].
            labels: int64 [N].

        Returns:
            [..., N], not differentiated.
        """
        apart = features - self._means[0][labels]
        distances = (apart.square_() @ self._variances[0].reciprocal().to(apart.dtype)) / features.shape[-1]
        counted = (self._statistics[:, 0] > 0)[labels]
        return torch.where(counted, distances.pow_(power).clamp_(_LEAST_RARE, _MOST_RARE), self._one)

    def _summarise(self) -> None:
        """The classes' shares [C, 1], and of real and generated images the classes' means [2, C, F] and the variances
        around them [2, F]."""
        counts, sums = self._statistics.split([1, self._statistics.shape[1] - 1], dim=1)
        torch.div(counts, counts.sum().clamp(min=1e-6), out=self._shares)
        means, squares = (sums / counts.clamp(min=1e-6)).chunk(2, dim=1)
        self._means.copy_(means.unflatten(1, (2, -1)).transpose(0, 1))
        self._variances.copy_((self._shares * (squares - means.square())).sum(dim=0).view_as(self._variances))
        self._variances.add_((_LEAST * self._variances[0].mean()).clamp(min=1e-6))

    def state_dict(self) -> dict[str, Tensor]:
        return {"statistics": self._statistics}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up statistics; none, as of a run that did not match features, begin anew."""
        if state:
            self._statistics.copy_(state["statistics"])
            self._summarise()
