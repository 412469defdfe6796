"""Distances between two sets of feature vectors, and the spread of one set's classes; float32 [N, F] in, plain numbers
out. Nothing here knows of images.

- Fréchet distance: Heusel et al. 2017 (arXiv:1706.08500), eq. 6, here in the features of our own classifier.
- precision, recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991), eqs. 1-3, k = 3.
- density, coverage: Naeem et al. 2020 (arXiv:2002.09797), eqs. 4 and 6, k = 5.
- Inception Score: Salimans et al. 2016 (arXiv:1606.03498), section 4, with the softmax of our own classifier.
- class balance: Pielou's evenness (J. Theoretical Biology 13, 1966), the entropy of the classes' shares over ln K.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PRECISION_RECALL_K = 3
DENSITY_COVERAGE_K = 5
_ROWS = 500  # of a distance matrix held at a time: 500 × 10,000 float32 are 20 MB, and stay in a CPU's caches


@dataclass(frozen=True)
class Gaussian:
    """Mean [F] and covariance [F, F] of a feature set, float64."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def fit(features: Tensor) -> "Gaussian":
        """The Gaussian of features [N, F], N ≥ 2."""
        values = features.double()
        return Gaussian(values.mean(dim=0), torch.cov(values.T))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).

    The trace of the root is the sum of the roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric and
    positive semi-definite: no complex square root is needed, and no correction of one.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


@dataclass(frozen=True)
class Neighbourhoods:
    """How far the k-th nearest neighbour of each real sample within its own set is, [N] for both k in use."""

    precision_recall: Tensor
    density_coverage: Tensor

    @staticmethod
    def of(features: Tensor) -> "Neighbourhoods":
        """Radii of the balls around each of the samples [N, F]; with fewer than k others, to the farthest of them."""
        k = min(DENSITY_COVERAGE_K, len(features) - 1)
        smallest = torch.cat(
            [torch.cdist(rows, features).topk(k + 1, largest=False).values for rows in features.split(_ROWS)]
        )  # the first is the sample itself, at 0
        return Neighbourhoods(smallest[:, min(PRECISION_RECALL_K, k)], smallest[:, k])


def manifold_scores(real: Tensor, balls: Neighbourhoods, fake: Tensor) -> dict[str, float]:
    """precision, recall, density and coverage of `fake` [M, F] against `real` [N, F] with its neighbourhoods."""
    fake_radii = Neighbourhoods.of(fake).precision_recall
    inside = torch.zeros(len(fake), dtype=torch.bool)  # fakes within any real ball (k = 3)
    balls_hit = torch.zeros(len(fake))  # real balls (k = 5) that each fake is within
    recalled, covered = [], []
    for start in range(0, len(real), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = torch.cdist(real[rows], fake)
        inside |= (distances <= balls.precision_recall[rows, None]).any(dim=0)
        within = distances <= balls.density_coverage[rows, None]
        balls_hit += within.float().sum(dim=0)  # sums of bool are slower
        covered.append(within.any(dim=1))
        recalled.append((distances <= fake_radii).any(dim=1))
    return {
        "precision": inside.float().mean().item(),
        "recall": torch.cat(recalled).float().mean().item(),
        "density": (balls_hit.mean() / DENSITY_COVERAGE_K).item(),
        "coverage": torch.cat(covered).float().mean().item(),
    }


def inception_score(logits: Tensor) -> float:
    """exp(E KL(p(y|x) ‖ p(y))) of logits [N, K], over all N at once: from 1 (every image is read alike) to K (every
    image is read without doubt, and all classes are as frequent).

    The paper means over ten parts of 5,000 images each; smaller parts bias the score, so there is one here, as Barratt
    and Sharma advise (arXiv:1801.01973).
    """
    log_p = logits.double().log_softmax(dim=1)
    log_marginal = log_p.logsumexp(dim=0) - math.log(len(logits))
    return float((log_p.exp() * (log_p - log_marginal)).sum(dim=1).mean().exp())


def class_balance(predictions: Tensor, classes: int) -> float:
    """How evenly predicted classes, int64 [N], spread over all K: the entropy of their shares over ln K, from 0 (one
    class alone) to 1 (all as often). With a single class there is nothing to spread over: 1."""
    if classes == 1:
        return 1.0
    shares = torch.bincount(predictions, minlength=classes).double() / len(predictions)
    return float(torch.special.entr(shares).sum() / math.log(classes))
