"""Feature matching moves means and variances of generated features towards running statistics of the real ones."""

from collections.abc import Sequence

import torch

from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks
from ganctl.training.losses.feature_matching import FeatureMatching
from ganctl.training.losses.terms import reweight
from tests.unit.training.steps import distance_of_features

CPU = torch.device("cpu")
LABELS = torch.arange(64) % 2


def features(seed: int, *, spread: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    """Returns random features [64, 16] of two classes with means −1 and 1, plus `offset`."""
    noise = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    return (2.0 * LABELS - 1).unsqueeze(1) + offset + spread * noise


def collect_statistics(*, spread: float, offset: float) -> tuple[FeatureMatching, torch.Tensor]:
    """Collects statistics of 100 batches of such fakes; returns them with the gradient of one more batch."""
    matching = FeatureMatching(1.0, 2, 16, CPU)
    for seed in range(100):
        matching.loss(features(seed), features(1000 + seed, spread=spread, offset=offset), LABELS, SINGLE_RANK)
    fake = features(2000, spread=spread, offset=offset).requires_grad_()
    (gradient,) = torch.autograd.grad(matching.loss(features(100), fake, LABELS, SINGLE_RANK), fake)
    return matching, gradient


def around_class_means(x: torch.Tensor) -> torch.Tensor:
    return x - torch.stack([x[LABELS.eq(c)].mean(dim=0) for c in (0, 1)])[LABELS]


def test_the_gradient_spreads_fakes_whose_variance_is_too_small() -> None:
    _, gradient = collect_statistics(spread=0.8, offset=0.0)
    deviation = around_class_means(features(2000, spread=0.8))
    assert (gradient * deviation).sum(dim=0).max() < 0, "descent leads away from the class mean in every feature"


def test_the_gradient_gathers_fakes_whose_variance_is_too_large() -> None:
    _, gradient = collect_statistics(spread=1.4, offset=0.0)
    assert (gradient * around_class_means(features(2000, spread=1.4))).sum(dim=0).min() > 0


def test_the_gradient_lowers_fakes_whose_mean_is_too_high() -> None:
    _, gradient = collect_statistics(spread=1.0, offset=0.5)
    for c in (0, 1):
        assert gradient[LABELS.eq(c)].mean(dim=0).min() > 0, "in both classes and every feature"


def test_fakes_with_the_means_and_variances_of_real_images_have_a_loss_near_0() -> None:
    def loss(**difference: float) -> float:
        matching, _ = collect_statistics(**difference)
        return float(matching.loss(features(3000), features(4000, **difference), LABELS, SINGLE_RANK))

    assert loss(spread=1.0, offset=0.0) < 0.01
    assert min(loss(spread=0.8, offset=0.0), loss(spread=1.0, offset=0.5)) > 0.1


def test_loss_and_gradient_equal_those_of_the_documented_formula() -> None:
    fake = features(1, spread=0.5, offset=0.7).requires_grad_()
    # after one batch, the running statistics are those of the batch
    loss = FeatureMatching(2.0, 2, 16, CPU).loss(features(0), fake, LABELS, SINGLE_RANK)
    expected = 2 * distance_of_features(features(0), fake, LABELS)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, fake)[0] for value in (loss, expected)))


def test_the_gradient_stays_bounded_for_fakes_far_from_the_real_images() -> None:
    norms = []
    for offset in (1.0, 10.0, 1000.0):
        fake = (features(1) + offset).requires_grad_()
        loss = FeatureMatching(1.0, 2, 16, CPU).loss(features(0, spread=0.1), fake, LABELS, SINGLE_RANK)
        norms.append(torch.autograd.grad(loss, fake)[0].norm())
    assert norms[2] < norms[1] < norms[0]


def test_features_far_from_zero_lose_no_precision() -> None:
    losses = []
    for offset in (0.0, 1000.0):
        matching = FeatureMatching(1.0, 2, 16, CPU)
        losses.append(matching.loss(features(0) + offset, features(1, spread=0.8) + offset, LABELS, SINGLE_RANK))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)


def test_a_constant_feature_gives_a_finite_loss_and_gradient() -> None:
    matching = FeatureMatching(1.0, 2, 16, CPU)
    real, fake = features(0), features(1)
    real[:, 3] = fake[:, 3] = 0
    fake.requires_grad_()
    loss = matching.loss(real, fake, LABELS, SINGLE_RANK)
    loss.backward()
    assert loss.isfinite()
    assert fake.grad is not None
    assert fake.grad.isfinite().all()


def test_classes_without_images_change_nothing() -> None:
    few, many = FeatureMatching(1.0, 2, 16, CPU), FeatureMatching(1.0, 1000, 16, CPU)
    for seed in range(5):
        fakes = [features(100 + seed, spread=0.8, offset=0.5).requires_grad_() for _ in range(2)]
        losses = (
            few.loss(features(seed), fakes[0], LABELS, SINGLE_RANK),
            many.loss(features(seed), fakes[1], LABELS * 700 + 123, SINGLE_RANK),
        )
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(*each)[0] for each in zip(losses, fakes, strict=True)))


def test_features_that_overflowed_are_not_counted() -> None:
    matching, expected = FeatureMatching(1.0, 2, 16, CPU), FeatureMatching(1.0, 2, 16, CPU)
    overflowed = features(7)
    overflowed[3, 5] = torch.inf
    matching.loss(overflowed, features(8), LABELS, SINGLE_RANK)
    losses = [m.loss(features(0), features(1), LABELS, SINGLE_RANK) for m in (matching, expected)]
    torch.testing.assert_close(*losses)


class BesideAnOverflow(Ranks):
    """Two ranks, of which the other one's features have overflowed."""

    def all_reduce_mean(self, tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor[0] = torch.nan  # its images are of the first class


def test_a_batch_that_overflowed_on_another_rank_is_not_counted() -> None:
    matching, expected = FeatureMatching(1.0, 2, 16, CPU), FeatureMatching(1.0, 2, 16, CPU)
    matching.loss(features(7), features(8), LABELS, BesideAnOverflow(0, 2))
    losses = [m.loss(features(0), features(1), LABELS, SINGLE_RANK) for m in (matching, expected)]
    torch.testing.assert_close(*losses)


def test_restored_statistics_give_identical_losses() -> None:
    matching, _ = collect_statistics(spread=0.8, offset=0.5)
    restored = FeatureMatching(1.0, 2, 16, CPU)
    restored.load_state_dict({key: value.clone() for key, value in matching.state_dict().items()})
    expected, loss = (m.loss(features(5), features(6), LABELS, SINGLE_RANK) for m in (matching, restored))
    assert torch.equal(loss, expected)
    empty = FeatureMatching(1.0, 2, 16, CPU)
    empty.load_state_dict({})  # the state of a run without feature matching
    assert not torch.equal(empty.loss(features(5), features(6), LABELS, SINGLE_RANK), expected)


def test_image_weights_grow_with_the_distance_from_the_class_mean_in_units_of_the_variance() -> None:
    matching, _ = collect_statistics(spread=1.0, offset=0.0)
    real = features(5)
    weights = matching.image_weights(real, LABELS, 1.0)
    expected = (real - (2.0 * LABELS - 1).unsqueeze(1)).square().mean(dim=1)  # means ±1, variances 1
    torch.testing.assert_close(weights, expected.clamp(0.2, 5), rtol=0.1, atol=0.05)
    torch.testing.assert_close(matching.image_weights(real, LABELS, 0.5), weights.sqrt())
    far = matching.image_weights(features(5, offset=10.0), LABELS, 1.0)
    near = matching.image_weights(features(5, spread=0.0), LABELS, 1.0)
    assert (far == 5).all()
    torch.testing.assert_close(near, torch.full((64,), 0.2))


def test_image_weights_are_1_for_classes_without_statistics() -> None:
    matching = FeatureMatching(1.0, 2, 16, CPU)
    assert (matching.image_weights(features(0), LABELS, 1.0) == 1).all()
    first = LABELS.eq(0)
    matching.loss(features(0)[first], features(1)[first], LABELS[first], SINGLE_RANK)
    weights = matching.image_weights(features(2, offset=3.0), LABELS, 1.0)
    assert (weights[first] > 1).all()
    assert (weights[~first] == 1).all(), "the other class has no statistics"


def test_reweight_scales_gradients_and_keeps_logits() -> None:
    logits, weights = torch.randn(8, requires_grad=True), torch.linspace(0.2, 5, 8)
    torch.testing.assert_close(reweight(logits, weights), logits)
    (gradient,) = torch.autograd.grad(reweight(logits, weights).sum(), logits)
    torch.testing.assert_close(gradient, weights)


def test_infinite_features_give_a_nonfinite_gradient_and_are_not_added_to_the_statistics() -> None:
    matching, _ = collect_statistics(spread=1.0, offset=0.0)
    fake = features(1)
    fake[0, 0] = float("inf")
    fake.requires_grad_()
    loss = matching.loss(features(0), fake, LABELS, SINGLE_RANK)
    (gradient,) = torch.autograd.grad(loss, fake)
    assert not gradient.isfinite().all(), "the loss scaler must detect it"
    assert matching.state_dict()["statistics"].isfinite().all()
