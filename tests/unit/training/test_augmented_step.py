"""Augmentation in a training step: only the discriminator sees it; an adaptive probability follows its accuracy."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ganctl.training.augment.probability import MAX_PROBABILITY, AdaptiveProbability
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import AugmentSettings
from ganctl.training.distributed.ranks import SINGLE_RANK, Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.images.source import GeneratorSource
from ganctl.training.losses.analytic.backend import AnalyticBackend
from ganctl.training.losses.backend import AutogradBackend, Backend
from ganctl.training.losses.terms import BatchOutputs, LossResult
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step
from tests.unit.training.steps import CPU, batch, build

FIXED, ADAPTIVE = "augment.probability=1.0", "augment.probability=adaptive"
BACKENDS = (AutogradBackend, AnalyticBackend)


@contextmanager
def inputs_of_discriminator(step: Step) -> Iterator[list[Tensor]]:
    """Collects the images that enter the first layer of the discriminator."""
    seen: list[Tensor] = []
    features = step.discriminator.get_submodule("features")
    handle = features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    yield seen
    handle.remove()


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_the_discriminator_sees_only_augmented_images_real_and_generated_in_both_phases(reuse: str) -> None:
    for setting, expected in ((FIXED, True), ("augment.probability=0.0", False)):
        _, step = build(setting, f"train.reuse_fakes={reuse}", backend=AutogradBackend)
        with inputs_of_discriminator(step) as seen:
            step(*batch(), step=0, progress=0.0)
        images = torch.cat(seen)
        assert len(images) == 4 * 8, "real and generated images in both phases"
        background = (images == -1).flatten(1).float().mean(dim=1)
        assert (background > 1 / 20).tolist() == [expected] * len(images)  # cutout takes 1/16 of an image or more


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_generator_learns_through_the_augmentation(backend: type[Backend]) -> None:
    """Pixels that are cut out of an image have the same gradient, since they matter to its mean color alone."""
    _, step = build(FIXED, backend=backend)
    gradients: list[Tensor] = []

    def keep_gradient(module: nn.Module, inputs: object, images: Tensor) -> None:
        if images.requires_grad:
            images.register_hook(gradients.append)

    step.generator.register_forward_hook(keep_gradient)
    step(*batch(), step=0, progress=0.0)
    (gradient,) = gradients
    for pixels in gradient.flatten(1):
        _, counts = pixels.unique(return_counts=True)
        assert counts.max() > len(pixels) / 20
        assert len(counts) > len(pixels) / 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_flip_mirrors_half_of_the_real_images_and_no_generated_ones(backend: type[Backend]) -> None:
    _, step = build("augment.flip=true", backend=backend)
    images, labels = batch(400)
    prepared = step.objective.prepare(images, labels, both=True).images
    original = images.float() / 127.5 - 1
    kept, mirrored = (
        torch.isclose(prepared, other, atol=1e-6).flatten(1).all(dim=1) for other in (original, original.flip(3))
    )
    assert (kept ^ mirrored).all()
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.1)


def test_what_is_sampled_scored_and_exported_holds_no_augmentation() -> None:
    _, augmented = build(FIXED, "augment.flip=true")
    _, plain = build()
    for number in range(3):
        augmented(*batch(), step=number, progress=0.0)
    plain.ema.load_state_dict(augmented.ema.state_dict())  # the same parameters and buffers
    z, labels = torch.randn(20, augmented.ema.latent_dim), torch.arange(20) % 10
    images = [GeneratorSource(step.ema, tuple("0123456789")).generate(z, labels) for step in (augmented, plain)]
    assert torch.equal(*images)
    assert torch.equal(GeneratorSource(augmented.ema, tuple("0123456789")).generate(z, labels), images[0])


def test_without_augmentation_a_step_draws_no_further_random_numbers() -> None:
    states = []
    for setting in ("augment.probability=0.0", FIXED, "augment.flip=true"):
        _, step = build(setting)
        step(*batch(), step=0, progress=0.0)
        states.append(step.rng.get_state())
        if setting == "augment.probability=0.0":
            alone = torch.Generator().manual_seed(0)
            torch.randn(8, step.generator.latent_dim, generator=alone)
            assert torch.equal(alone.get_state(), states[0]), "the latents alone"
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_accuracy_of_the_discriminator_is_the_share_of_pairs_that_it_ranks_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, step = build(FIXED)
    seen: list[Tensor] = []
    monkeypatch.setattr(step.objective.backend, "discriminator_loss", partial(_record, step, seen))
    step(*batch(), step=0, progress=0.0)
    real, fake = seen
    assert step.read_stats()["discriminator_accuracy"] == pytest.approx((real > fake).float().mean().item())
    for name in ("logit.weight", "projection.weight"):
        nn.init.zeros_(step.discriminator.get_parameter(name))
    step(*batch(), step=1, progress=0.0)
    assert step.read_stats()["discriminator_accuracy"] == 0.5, "it cannot tell the images apart"


def _record(step: Step, seen: list[Tensor], outputs: BatchOutputs, *, penalized: bool) -> LossResult:
    assert outputs.real is not None
    seen += [outputs.real.logits.detach(), outputs.fake.logits.detach()]
    return Backend.discriminator_loss(step.objective.backend, outputs, penalized=penalized)


def adaptive(**settings: float) -> AdaptiveProbability:
    return AdaptiveProbability(AugmentSettings.model_validate({"probability": "adaptive", **settings}), CPU)


TRAIN, HELD_OUT = torch.arange(10.0), torch.arange(4.0)  # logits


def test_an_adaptive_probability_rises_while_training_images_rank_above_held_out_ones_and_falls_else() -> None:
    probability = adaptive(ramp=1000)
    for _ in range(50):
        probability.update(TRAIN, TRAIN, SINGLE_RANK)
    assert probability.value == probability.overfitting == 0
    for _ in range(60):
        probability.update(TRAIN + 100, HELD_OUT, SINGLE_RANK)
    assert 0.4 < probability.value < 0.6, "about 60 steps of 10 images, of a ramp of 1,000"
    for _ in range(100):
        probability.update(TRAIN + 100, HELD_OUT, SINGLE_RANK)
    assert probability.value == pytest.approx(MAX_PROBABILITY)
    assert probability.overfitting > 0.9
    for _ in range(400):
        probability.update(TRAIN, HELD_OUT + 100, SINGLE_RANK)
    assert probability.value == 0
    assert probability.overfitting < -0.9


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 50.0), (1.0, -50.0), (0.01, 0.0)])
def test_overfitting_does_not_depend_on_the_level_or_the_scale_of_logits(scale: float, shift: float) -> None:
    first, second = adaptive(), adaptive()
    first.update(TRAIN, HELD_OUT, SINGLE_RANK)
    second.update(scale * TRAIN + shift, scale * HELD_OUT + shift, SINGLE_RANK)
    assert first.overfitting == second.overfitting > 0


def test_a_single_batch_does_not_move_an_adaptive_probability() -> None:
    probability = adaptive(ramp=1000)
    probability.update(TRAIN + 100, HELD_OUT, SINGLE_RANK)
    assert probability.value == 0


def test_an_adaptive_probability_follows_the_mean_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_with_another_rank(ranks: Ranks, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor.add_(1).div_(2)  # the other rank found complete overfitting

    alone, together = adaptive(), adaptive()
    alone.update(torch.cat([TRAIN, TRAIN + 100]), HELD_OUT, SINGLE_RANK)
    monkeypatch.setattr(Ranks, "all_reduce_mean", mean_with_another_rank)
    together.update(TRAIN, HELD_OUT, Ranks(0, 2))
    torch.testing.assert_close(together.state_dict(), alone.state_dict())


def test_adaptive_augmentation_needs_logits_that_depend_on_one_image_each() -> None:
    network = "model.discriminator=tests.unit.training.test_step:BatchNormDiscriminator"
    with pytest.raises(ConfigError, match=r"augment\.probability = adaptive: .*batch normalization"):
        build(ADAPTIVE, network, "loss.r1=0", "loss.r2=0")


def test_an_adaptive_probability_is_recorded_checked_and_restored() -> None:
    settings = (ADAPTIVE, "augment.target=0.0001", "augment.ramp=80")
    _, step = build(*settings)
    for number in range(3):
        step(*batch(), step=number, progress=0.0)
    assert 0 < step.read_stats()["augment_probability"] < 1
    state = copy.deepcopy(step.state_dict())
    _, resumed = build(*settings)
    resumed.load_state_dict(state)
    for one in (step, resumed):
        one(*batch(), step=3, progress=0.0)
    assert step.read_stats() == resumed.read_stats()
    for key, value in step.objective.state_dict().items():
        assert torch.equal(value, resumed.objective.state_dict()[key]), key
    step.objective.state_dict()["augment"][0] = float("nan")
    assert step.first_nonfinite() == "losses.augment"


def test_a_run_without_adaptive_augmentation_may_continue_with_it() -> None:
    _, plain = build()
    plain(*batch(), step=0, progress=0.0)
    _, step = build(ADAPTIVE)
    step.load_state_dict(copy.deepcopy(plain.state_dict()))
    step(*batch(), step=1, progress=0.0)
    assert "augment_probability" in step.read_stats()


@pytest.mark.parametrize("channels", [3, 4])
def test_color_images_train_with_augmentation(channels: int) -> None:
    config, _ = resolve(assignments=["model.base_channels=4", "loss.penalty_every=1", FIXED], environment={})
    shape = ImageShape(channels, 16, 16)
    generator, discriminator = build_generator(config.model, shape, 10), build_discriminator(config.model, shape, 10)
    step = Step(config, generator, discriminator, CPU)
    images, labels = torch.randint(256, (8, *shape), dtype=torch.uint8), torch.arange(8)
    step(images, labels, step=0, progress=0.0)
    step.check(1)
