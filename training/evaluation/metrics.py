"""Metrics on feature vectors, logits and predicted classes: distances between two sets, and the spread of classes.

Features are float32 [N, F]; the scores are Python floats.

- Fréchet distance: Heusel et al. 2017 (arXiv:1706.08500), eq. 6, on the features of the scorer.
- KID: Bińkowski et al. 2018 (arXiv:1801.01401), section 4, with its kernel of degree 3.
- precision, recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991), eqs. 1-3, k = 3.
- density, coverage: Naeem et al. 2020 (arXiv:2002.09797), eqs. 4 and 6, k = 5.
- Inception Score: Salimans et al. 2016 (arXiv:1606.03498), section 4, with the softmax of the label classifier.
- class balance: Pielou's evenness (J. Theoretical Biology 13, 1966), the entropy of the class shares over ln K.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ganctl.training.data.base import fixed_permutation
from ganctl.training.device.turns import in_turns

PRECISION_RECALL_K = 3
DENSITY_COVERAGE_K = 5
_KID_BLOCKS = 10
_ROWS = 500  # per block of the distance matrix: 500 × 10,000 float32 are 20 MB and fit into a CPU's caches


@dataclass(frozen=True)
class Gaussian:
    """Mean [F] and covariance [F, F] of a feature set, float64."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def fit(features: Tensor) -> "Gaussian":
        """Fits a Gaussian to features [N, F], N ≥ 2."""
        values = features.double()
        return Gaussian(values.mean(dim=0), torch.cov(values.T))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Fréchet distance of two Gaussians: ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).

    The trace of the matrix root is the sum of the square roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½. That matrix is
    symmetric and positive semi-definite, so that no complex square root is needed.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """KID of features [M, F] and [N, F], M, N ≥ 4, and its standard error.

    KID is the unbiased estimate of the squared maximum mean discrepancy with the kernel (x·y / F + 1)³: for equal
    distributions its mean is 0 at any number of images, so it may be negative. The paper averages over random subsets;
    this is the estimate of all pairs. The standard error is a jackknife (Efron 1982): both sets are divided into the
    same number of blocks, and KID is computed without each block in turn.
    """
    blocks = min(_KID_BLOCKS, len(generated) // 2, len(real) // 2)
    # a fixed random order: the classes of the rows may come in turn, or one after another
    g, r = (
        [features[rows].double() for rows in fixed_permutation(len(features)).tensor_split(blocks)]
        for features in (generated, real)
    )

    def sums(a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Sums of the kernel over each two blocks, [blocks, blocks], without the pairs of a row with itself."""
        result = torch.empty(blocks, blocks, dtype=torch.float64)
        for i, x in enumerate(in_turns(a)):
            for j, y in enumerate(b):
                kernel = (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)
                result[i, j] = kernel.sum() - (kernel.trace() if x is y else 0.0)
        return result

    within_g, within_r, between = sums(g, g), sums(r, r), sums(g, r)

    def estimate(keep: Tensor) -> Tensor:
        m, n = (sum(len(block) for block, kept in zip(each, keep, strict=True) if kept) for each in (g, r))
        kept = keep[:, None] & keep
        terms = (
            within_g[kept].sum() / (m * (m - 1)),
            within_r[kept].sum() / (n * (n - 1)),
            between[kept].sum() / (m * n),
        )
        return terms[0] + terms[1] - 2 * terms[2]

    everything = torch.ones(blocks, dtype=torch.bool)
    without = torch.stack([estimate(everything.clone().index_fill_(0, torch.tensor(i), False)) for i in range(blocks)])
    variance = (blocks - 1) / blocks * (without - without.mean()).square().sum()
    return float(estimate(everything)), float(variance.sqrt())


@dataclass(frozen=True)
class NeighborRadii:
    """Distance of each sample to its k-th nearest neighbor in its own set, [N] for each of the two values of k."""

    precision_recall: Tensor
    density_coverage: Tensor

    @staticmethod
    def of(features: Tensor) -> "NeighborRadii":
        """Computes the radii for samples [N, F]; with N ≤ k, the distance to the farthest sample."""
        k = min(DENSITY_COVERAGE_K, len(features) - 1)
        smallest = torch.cat(
            [torch.cdist(rows, features).topk(k + 1, largest=False).values for rows in in_turns(features.split(_ROWS))]
        )  # column 0 is the sample itself, at distance 0
        return NeighborRadii(smallest[:, min(PRECISION_RECALL_K, k)], smallest[:, k])


def manifold_scores(real: Tensor, radii: NeighborRadii, fake: Tensor) -> dict[str, float]:
    """Computes precision, recall, density and coverage of `fake` [M, F] against `real` [N, F] with its radii."""
    fake_radii = NeighborRadii.of(fake).precision_recall
    inside = torch.zeros(len(fake), dtype=torch.bool)  # fakes within the radius of any real sample (k = 3)
    num_containing = torch.zeros(len(fake))  # per fake: real samples whose radius (k = 5) contains it
    recalled, covered = [], []
    for start in in_turns(range(0, len(real), _ROWS)):
        rows = slice(start, start + _ROWS)
        distances = torch.cdist(real[rows], fake)
        inside |= (distances <= radii.precision_recall[rows, None]).any(dim=0)
        within = distances <= radii.density_coverage[rows, None]
        num_containing += within.float().sum(dim=0)  # sums of bool are slower
        covered.append(within.any(dim=1))
        recalled.append((distances <= fake_radii).any(dim=1))
    return {
        "precision": inside.float().mean().item(),
        "recall": torch.cat(recalled).float().mean().item(),
        "density": (num_containing.mean() / DENSITY_COVERAGE_K).item(),
        "coverage": torch.cat(covered).float().mean().item(),
    }


def inception_score(logits: Tensor) -> float:
    """Inception Score exp(E KL(p(y|x) ‖ p(y))) of logits [N, K], over all N at once.

    It ranges from 1 (all images get the same prediction) to K (all predictions are certain, all classes equally
    frequent). The paper averages over ten parts of 5,000 images. Smaller parts bias the score, so there is a single
    part here, as Barratt and Sharma advise (arXiv:1801.01973).
    """
    log_p = logits.double().log_softmax(dim=1)
    log_marginal = log_p.logsumexp(dim=0) - math.log(len(logits))
    return float((log_p.exp() * (log_p - log_marginal)).sum(dim=1).mean().exp())


def class_balance(predictions: Tensor, classes: int) -> float:
    """Evenness of predicted classes, int64 [N]: the entropy of their shares over ln K.

    It ranges from 0 (a single class is predicted) to 1 (all K classes equally often). It is 1 if K is 1.
    """
    if classes == 1:
        return 1.0
    shares = torch.bincount(predictions, minlength=classes).double() / len(predictions)
    return float(torch.special.entr(shares).sum() / math.log(classes))
