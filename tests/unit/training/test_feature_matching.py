"""Feature matching pulls the generator's features towards the real ones' means and variances, and remembers."""

import torch

from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.losses.feature_matching import FeatureMatching
from ganctl.training.losses.terms import reweight
from tests.unit.training.steps import distance_of_features

CPU = torch.device("cpu")
LABELS = torch.arange(64) % 2


def features(seed: int, *, spread: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    """[64, 16] of two classes around −1 and 1."""
    noise = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    return (2.0 * LABELS - 1).unsqueeze(1) + offset + spread * noise


def settled(*, spread: float, offset: float) -> tuple[FeatureMatching, torch.Tensor]:
    """Statistics of a hundred batches of fakes that are so different, and the gradient of one batch more."""
    matching = FeatureMatching(1.0, 2, 16, CPU)
    for seed in range(100):
        matching.loss(features(seed), features(1000 + seed, spread=spread, offset=offset), LABELS, SINGLE_RANK)
    fake = features(2000, spread=spread, offset=offset).requires_grad_()
    (gradient,) = torch.autograd.grad(matching.loss(features(100), fake, LABELS, SINGLE_RANK), fake)
    return matching, gradient


def around_class_means(x: torch.Tensor) -> torch.Tensor:
    return x - torch.stack([x[LABELS.eq(c)].mean(dim=0) for c in (0, 1)])[LABELS]


def test_fakes_that_vary_too_little_are_spread() -> None:
    _, gradient = settled(spread=0.8, offset=0.0)
    away = around_class_means(features(2000, spread=0.8))
    assert (gradient * away).sum(dim=0).max() < 0, "downhill is away from the class's mean, in every feature"


def test_fakes_that_vary_too_much_are_gathered() -> None:
    _, gradient = settled(spread=1.4, offset=0.0)
    assert (gradient * around_class_means(features(2000, spread=1.4))).sum(dim=0).min() > 0


def test_fakes_that_lie_too_high_are_lowered() -> None:
    _, gradient = settled(spread=1.0, offset=0.5)
    for c in (0, 1):
        assert gradient[LABELS.eq(c)].mean(dim=0).min() > 0, "of both classes, in every feature"


def test_fakes_that_lie_with_the_real_ones_and_vary_as_much_cost_next_to_nothing() -> None:
    def cost(**how: float) -> float:
        matching, _ = settled(**how)
        return float(matching.loss(features(3000), features(4000, **how), LABELS, SINGLE_RANK))

    assert cost(spread=1.0, offset=0.0) < 0.01
    assert min(cost(spread=0.8, offset=0.0), cost(spread=1.0, offset=0.5)) > 0.1


def test_the_gradient_is_that_of_the_documented_loss() -> None:
    fake = features(1, spread=0.5, offset=0.7).requires_grad_()
    # its statistics are this batch's
    found = FeatureMatching(2.0, 2, 16, CPU).loss(features(0), fake, LABELS, SINGLE_RANK)
    expected = 2 * distance_of_features(features(0), fake, LABELS)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, fake)[0] for loss in (found, expected)))


def test_however_far_apart_they_are_the_gradient_stays_bounded() -> None:
    steepest = []
    for far in (1.0, 10.0, 1000.0):
        fake = (features(1) + far).requires_grad_()
        loss = FeatureMatching(1.0, 2, 16, CPU).loss(features(0, spread=0.1), fake, LABELS, SINGLE_RANK)
        steepest.append(torch.autograd.grad(loss, fake)[0].norm())
    assert steepest[2] < steepest[1] < steepest[0]


def test_features_far_from_zero_lose_no_digits() -> None:
    losses = []
    for far in (0.0, 1000.0):
        matching = FeatureMatching(1.0, 2, 16, CPU)
        losses.append(matching.loss(features(0) + far, features(1, spread=0.8) + far, LABELS, SINGLE_RANK))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)


def test_a_dead_feature_is_no_fault() -> None:
    matching = FeatureMatching(1.0, 2, 16, CPU)
    real, fake = features(0), features(1)
    real[:, 3] = fake[:, 3] = 0
    fake.requires_grad_()
    loss = matching.loss(real, fake, LABELS, SINGLE_RANK)
    loss.backward()
    assert loss.isfinite()
    assert fake.grad is not None
    assert fake.grad.isfinite().all()


def test_what_is_taken_up_goes_on_as_if_it_had_not_stopped() -> None:
    matching, _ = settled(spread=0.8, offset=0.5)
    other = FeatureMatching(1.0, 2, 16, CPU)
    other.load_state_dict({key: value.clone() for key, value in matching.state_dict().items()})
    expected, found = (m.loss(features(5), features(6), LABELS, SINGLE_RANK) for m in (matching, other))
    assert torch.equal(expected, found)
    fresh = FeatureMatching(1.0, 2, 16, CPU)
    fresh.load_state_dict({})  # of a run that matched nothing
    assert not torch.equal(fresh.loss(features(5), features(6), LABELS, SINGLE_RANK), found)


def test_rare_is_what_lies_far_from_its_class_in_units_of_what_real_images_do() -> None:
    matching, _ = settled(spread=1.0, offset=0.0)
    seen = features(5)
    found = matching.image_weights(seen, LABELS, 1.0)
    expected = (seen - (2.0 * LABELS - 1).unsqueeze(1)).square().mean(dim=1)  # means ±1, variances 1
    torch.testing.assert_close(found, expected.clamp(0.2, 5), rtol=0.1, atol=0.05)
    torch.testing.assert_close(matching.image_weights(seen, LABELS, 0.5), found.sqrt())
    far = matching.image_weights(features(5, offset=10.0), LABELS, 1.0)
    near = matching.image_weights(features(5, spread=0.0), LABELS, 1.0)
    assert (far == 5).all()
    torch.testing.assert_close(near, torch.full((64,), 0.2))


def test_nothing_is_rare_before_anything_was_seen() -> None:
    matching = FeatureMatching(1.0, 2, 16, CPU)
    assert (matching.image_weights(features(0), LABELS, 1.0) == 1).all()
    first = LABELS.eq(0)
    matching.loss(features(0)[first], features(1)[first], LABELS[first], SINGLE_RANK)
    found = matching.image_weights(features(2, offset=3.0), LABELS, 1.0)
    assert (found[first] > 1).all()
    assert (found[~first] == 1).all(), "nothing is known of the other class"


def test_emphasis_changes_gradients_and_no_logit() -> None:
    logits, weights = torch.randn(8, requires_grad=True), torch.linspace(0.2, 5, 8)
    torch.testing.assert_close(reweight(logits, weights), logits)
    (gradient,) = torch.autograd.grad(reweight(logits, weights).sum(), logits)
    torch.testing.assert_close(gradient, weights)


def test_features_that_overflow_are_told_and_not_remembered() -> None:
    matching, _ = settled(spread=1.0, offset=0.0)
    broken = features(1)
    broken[0, 0] = float("inf")
    broken.requires_grad_()
    loss = matching.loss(features(0), broken, LABELS, SINGLE_RANK)
    (gradient,) = torch.autograd.grad(loss, broken)
    assert not gradient.isfinite().all(), "the loss scaler must see it"
    assert matching.state_dict()["statistics"].isfinite().all()
