"""Feature matching: a generator loss on differences in mean and variance of the discriminator's features.

A discriminator of single images hardly detects that all generated images vary slightly too little. Salimans et al. 2016
(arXiv:1606.03498, section 3.1) match the means of features between batches, Mroueh et al. 2017 (arXiv:1702.08398) also
covariances. Here each class has its own means, and all classes share the variances around them. Both are averaged over
about the last hundred batches: statistics of one batch are mostly noise, which a generator reduces by varying less.

The same statistics show how rare an image is, so that both networks can give rare images more weight
(`loss.rare_weight`).
"""

import torch
from torch import Tensor

from ganctl.training.distributed.ranks import Ranks

_DECAY = 0.99  # of the running statistics, per step
_VARIANCE_WEIGHT = 3.0  # of the variance term; the mean term has 1
_MIN_VARIANCE = 0.01  # lower bound of a variance, relative to the mean variance: some features hardly vary
_MIN_IMAGE_WEIGHT, _MAX_IMAGE_WEIGHT = 0.2, 5.0


class FeatureMatching:
    """Running statistics of F features in C classes, and the loss on them; with C = 1, labels are ignored."""

    def __init__(self, weight: float, classes: int, features: int, device: torch.device) -> None:
        self._weight, self._classes = weight, torch.arange(classes, device=device).unsqueeze(1)
        # by class: number of images, then sums of features and of their squares, of real and of generated images;
        # float64, since variances are differences of squares
        self._statistics = torch.zeros(classes, 1 + 4 * features, device=device, dtype=torch.float64)
        # derived from `_statistics`, at fixed addresses for captured steps; of real and of generated images
        self._means = torch.zeros(2, classes, features, device=device)
        self._variances = torch.zeros(2, features, device=device)
        self._shares = torch.zeros(classes, 1, device=device, dtype=torch.float64)
        self._zero, self._one = torch.zeros((), device=device, dtype=torch.float64), torch.ones((), device=device)
        self._nan = torch.full_like(self._zero, torch.nan)
        self._update_summary()

    def loss(self, real: Tensor, fake: Tensor, labels: Tensor, ranks: Ranks) -> Tensor:
        """The generator's weighted loss, after adding this batch to the running statistics.

        loss = Σ_c p_c · mean_j ln(1 + (m'_cj − m_cj)² / v_j) + 3/2 · mean_j (2 (v'_j − v_j) / (v'_j + v_j))²

        with shares p of the classes, means m, and variances v around them; v' and m' are those of generated images.
        For small differences, both terms are squares of relative differences. For large ones, their gradients are
        bounded: in the first steps, real features hardly vary. The gradient is that of the running statistics, as if
        all their images were in this batch.

        Args:
            real: features of this rank's real images, [N, F]; not differentiated.
            fake: features of this rank's generated images, [N, F].
            labels: int64 [N], shared by real and generated images.
            ranks: those that share the batch.

        Returns:
            A scalar.
        """
        value, grad = self._update(real, fake.detach(), labels, ranks)
        product = (fake * grad).sum()
        loss: Tensor = value + product - product.detach()
        return loss

    @torch.no_grad()
    def _update(self, real: Tensor, fake: Tensor, labels: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Adds a batch to the statistics; returns the loss and the gradient of the fake features, [N, F]."""
        both = torch.cat([real, fake], dim=1).double()
        batch = torch.cat([torch.ones_like(both[:, :1]), both, both.square()], dim=1)
        # a batch with features that overflowed in fp16, on any rank, is not counted: all its counts become NaN
        batch = torch.where(batch.isfinite().all(), batch, self._nan)
        labels = self._groups(labels)
        sums = self._sum_by_class(batch, labels)
        ranks.all_reduce_mean([sums])
        sums = torch.where(sums[:, 0].isfinite().all(), sums, self._zero)
        self._statistics.mul_(_DECAY).add_(sums, alpha=ranks.size)  # the sum over all ranks
        self._update_summary()
        (real_means, fake_means), (real_variances, fake_variances) = self._means, self._variances
        mean_diff, variance_sum = fake_means - real_means, real_variances + fake_variances
        variance_diff, squared = 2 * (fake_variances - real_variances) / variance_sum, mean_diff.square()
        value = (self._shares * (squared / real_variances).log1p()).sum() / fake.shape[1]
        value = value.to(fake.dtype).add_(variance_diff.square().mean(), alpha=_VARIANCE_WEIGHT / 2)
        weight = self._weight / fake.numel()  # the means over images and features
        slope = real_variances / variance_sum.square() * variance_diff * (8 * _VARIANCE_WEIGHT * weight)
        offset = torch.addcmul(2 * weight * mean_diff / (real_variances + squared), slope, fake_means, value=-1)
        return self._weight * value, torch.addcmul(offset[labels], slope, fake)

    @torch.no_grad()
    def image_weights(self, features: Tensor, labels: Tensor, power: float) -> Tensor:
        """Weights of images by their rarity, [..., N], not differentiated.

        The weight is (mean_j (x_j − m_cj)² / v_j)^power with the means m of the classes and the variances v of real
        images, clamped to 1/5 … 5. With power 1 its mean over real images is about 1. Images of classes without
        statistics have weight 1.

        Args:
            features: [..., N, F].
            labels: int64 [N].
            power: the exponent.
        """
        labels = self._groups(labels)
        mean_diff = features - self._means[0][labels]
        distances = (mean_diff.square_() @ self._variances[0].reciprocal().to(mean_diff.dtype)) / features.shape[-1]
        counted = (self._statistics[:, 0] > 0)[labels]
        return torch.where(counted, distances.pow_(power).clamp_(_MIN_IMAGE_WEIGHT, _MAX_IMAGE_WEIGHT), self._one)

    def _sum_by_class(self, values: Tensor, labels: Tensor) -> Tensor:
        """Sums rows [N, V] by class: [C, V]."""
        if values.device.type == "cpu":  # the product takes ten times as long with 1,000 classes
            return torch.zeros_like(self._statistics).index_add_(0, labels, values)
        # index_add adds in any order there, and torch's one_hot reads the labels on the host
        return (labels == self._classes).to(values.dtype) @ values

    def _groups(self, labels: Tensor) -> Tensor:
        """The class of each image, int64 [N]: its label, or 0 if there is one class."""
        return labels if len(self._classes) > 1 else torch.zeros_like(labels)

    def _update_summary(self) -> None:
        """Derives shares [C, 1], means [2, C, F] and variances [2, F] from the statistics, in place."""
        counts, sums, squares = self._statistics.tensor_split([1, 1 + self._means[:, 0].numel()], dim=1)
        total = counts.sum().clamp(min=1e-6)
        torch.div(counts, total, out=self._shares)
        means = sums / counts.clamp(min=1e-6)
        self._means.copy_(means.unflatten(1, (2, -1)).transpose(0, 1))
        variances = squares.sum(dim=0) / total - (self._shares.T @ means.square_())[0]
        self._variances.copy_(variances.view_as(self._variances))
        self._variances.add_((_MIN_VARIANCE * self._variances[0].mean()).clamp(min=1e-6))

    def state_dict(self) -> dict[str, Tensor]:
        return {"statistics": self._statistics}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the statistics; the state of a run without feature matching leaves them unchanged."""
        if "statistics" in state:
            self._statistics.copy_(state["statistics"])
            self._update_summary()
