"""Training steps of a projected discriminator: it sees features of real and generated images, both augmented."""

import pytest
import torch
from torch import Tensor

from ganctl.training.config.resolve import preset_names, resolve
from ganctl.training.data.base import ImageSet
from ganctl.training.device.precision import Precision
from ganctl.training.distributed.ranks import SINGLE_RANK
from ganctl.training.errors import ConfigError
from ganctl.training.losses.backend import AutogradBackend, Batch
from ganctl.training.losses.energy_distance import energy_distance
from ganctl.training.models.base import ImageShape, to_float
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.models.projected import ProjectedDiscriminator
from ganctl.training.pretrained.projection import load_projection
from ganctl.training.step.step import Step
from tests.states import leaves
from tests.unit.training import steps
from tests.unit.training.steps import CPU

COLORS = ImageShape(3, 32, 32)
FIXED, ADAPTIVE = "augment.probability=1.0", "augment.probability=adaptive"
OTHERS_OFF = ("loss.classification=0", "loss.classification_generator=0", "loss.energy_distance=0")


def random_set(n: int, shape: ImageShape, seed: int) -> ImageSet:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, *shape), generator=rng, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"))


def build(*assignments: str, shape: ImageShape = COLORS, precision: Precision | None = None) -> Step:
    """The step of the preset `residual` with small networks."""
    small = ("model.base_channels=4", "model.latent_dim=16", *assignments)
    config, _ = resolve(preset="residual", assignments=small, environment={})
    torch.manual_seed(0)
    generator, discriminator = build_generator(config.model, shape, 3), build_discriminator(config.model, shape, 3)
    held_out = random_set(20, shape, seed=4)
    return Step(config, generator, discriminator, CPU, precision=precision, held_out=held_out)


def batch(shape: ImageShape = COLORS, n: int = 8) -> tuple[Tensor, Tensor]:
    data = random_set(n, shape, seed=3)
    return data.images, data.labels


def inputs_of_discriminator(step: Step) -> list[Tensor]:
    """Collects what enters the discriminator's features."""
    seen: list[Tensor] = []
    step.discriminator.get_submodule("features").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return seen


@pytest.mark.parametrize("reuse", ["true", "false"])
@pytest.mark.parametrize("shape", [ImageShape(1, 28, 28), COLORS, ImageShape(4, 64, 64)], ids=str)
def test_both_networks_learn_from_images_of_every_kind(shape: ImageShape, reuse: str) -> None:
    step = build(f"train.reuse_fakes={reuse}", shape=shape)
    networks = (step.generator, step.discriminator)
    before = [{name: weight.clone() for name, weight in network.named_parameters()} for network in networks]
    for number in range(2):
        step(*batch(shape), step=number, progress=0.0)
    step.check(2)
    for network, weights in zip(networks, before, strict=True):
        for name, weight in network.named_parameters():
            # the hinge loss moves all logits together only when some are beyond their margin
            assert name == "logit.bias" or not torch.equal(weight, weights[name]), name


def test_the_discriminator_sees_features_of_real_and_generated_images() -> None:
    step = build()
    seen = inputs_of_discriminator(step)
    images: list[Tensor] = []
    step.generator.register_forward_hook(lambda _, __, output: images.append(output.detach()))
    real = batch()
    step(*real, step=0, progress=0.0)
    features = [load_projection(CPU, torch.float32)(each) for each in (to_float(real[0]), images[0])]
    assert len(images) == 1, "the images of a step are generated once"
    torch.testing.assert_close(seen[0].detach(), torch.cat(features), rtol=1e-4, atol=1e-4)
    assert any(torch.equal(each.detach(), seen[0][8:].detach()) for each in seen[1:]), "in the generator's phase"


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_the_images_are_augmented_before_the_pretrained_network_sees_them(reuse: str) -> None:
    for setting, expected in ((FIXED, True), ("augment.probability=0.0", False)):
        step = build(setting, f"train.reuse_fakes={reuse}")
        seen: list[Tensor] = []
        hook = load_projection(CPU, torch.float32).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].detach())
        )
        step(*batch(), step=0, progress=0.0)
        hook.remove()
        images = torch.cat(seen)
        assert len(images) == (2 if reuse == "true" else 3) * 8, "real images, and the generated ones of each phase"
        background = (images == -1).flatten(1).float().mean(dim=1)
        assert (background > 1 / 20).tolist() == [expected] * len(images)  # cutout takes 1/16 of an image or more


def test_the_probability_of_adaptive_augmentation_follows_the_logits_of_held_out_features() -> None:
    step = build(ADAPTIVE, "augment.ramp=80", "augment.target=0.001", "augment.flip=true")
    probabilities = []
    for number in range(6):
        step(*batch(), step=number, progress=0.0)
        probabilities.append(step.read_stats()["augment_probability"])
    assert max(probabilities) > 0
    step.check(6)


def test_the_pretrained_weights_are_neither_trained_nor_saved() -> None:
    step = build()
    weights = load_projection(CPU, torch.float32).state_dict()
    before = {name: weight.clone() for name, weight in weights.items()}
    for number in range(2):
        step(*batch(), step=number, progress=0.0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert all(parameter.grad is None for parameter in load_projection(CPU, torch.float32).parameters())
    state = {name: value for name, value in leaves(step.state_dict()).items() if isinstance(value, Tensor)}
    for name, value in state.items():
        for weight in before.values():
            assert value.shape != weight.shape or not torch.equal(value.float(), weight), name
    trained = {id(p) for phase in step.phases for group in phase.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(parameter) for parameter in load_projection(CPU, torch.float32).parameters()}


def test_building_a_step_draws_the_random_numbers_of_the_networks_alone() -> None:
    config, _ = resolve(preset="residual", assignments=["model.base_channels=4"], environment={})
    torch.manual_seed(0)
    build_generator(config.model, COLORS, 3), build_discriminator(config.model, COLORS, 3)
    expected = torch.get_rng_state()
    build("model.latent_dim=64")
    assert torch.equal(torch.get_rng_state(), expected)


def prepared(step: Step) -> Batch:
    result = step.objective.prepare(*batch(), both=True)
    assert result.generated is not None
    return result


def detached(step: Batch) -> Tensor:
    assert step.generated is not None
    return step.generated.images.detach()


def test_r1_and_r2_are_squared_gradient_norms_in_the_features() -> None:
    penalties = ("loss.r1=0.7", "loss.r2=0.3")
    gradients = []
    for settings in (penalties, ("loss.r1=0", "loss.r2=0")):
        step = build(*settings, *OTHERS_OFF, "model.spectral_norm=false")
        assert isinstance(step.objective.backend, AutogradBackend)
        prepared_batch = prepared(step)
        step.objective.backward_discriminator(prepared_batch)
        gradients.append([p.grad for p in step.discriminator.parameters()])
    network, losses = step.discriminator, []
    for features, weight in ((prepared_batch.images, 0.35), (detached(prepared_batch), 0.15)):
        x = features.clone().requires_grad_()
        logits = network(x, prepared_batch.labels)
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        losses.append(weight * slope.square().sum(dim=1).mean())
    expected = torch.autograd.grad(sum(losses, torch.zeros(())), [*network.parameters()], allow_unused=True)
    compared = 0
    for with_penalty, without, reference in zip(*gradients, expected, strict=True):
        if with_penalty is None or without is None:
            continue
        reference = torch.zeros_like(without) if reference is None else reference
        torch.testing.assert_close(with_penalty - without, reference, rtol=1e-3, atol=1e-5)
        compared += bool(reference.any())
    assert compared > 5


def test_wgan_gp_is_taken_between_the_features() -> None:
    step = build("loss.wgan_gp=1.0", "loss.name=wasserstein")
    step(*batch(), step=0, progress=0.0)
    assert step.read_stats()["wgan_gp"] > 0
    step.check(1)


def test_the_generators_loss_has_the_energy_distance_of_the_features_with_its_weight() -> None:
    gradients = {}
    for weight in ("0", "3"):
        step = build("loss.classification_generator=0", f"loss.energy_distance={weight}")
        both = prepared(step)
        assert both.generated is not None
        parameters = [*step.generator.parameters()]
        if weight == "3":
            network = step.discriminator
            assert isinstance(network, ProjectedDiscriminator)
            value = energy_distance(both.images, both.generated.images, both.labels, network.maps, SINGLE_RANK)
            expected = torch.autograd.grad(3 * value, parameters, retain_graph=True)
        result = step.objective.backward_generator(both)
        gradients[weight] = [p.grad for p in parameters]
        assert ("energy_distance" in result.stats) == (weight == "3")
    torch.testing.assert_close(result.stats["energy_distance"], value)
    whole = torch.stack([each.norm() for each in expected]).norm()
    for with_term, without, reference in zip(gradients["3"], gradients["0"], expected, strict=True):
        assert with_term is not None
        assert without is not None
        assert (with_term - without - reference).norm() < 1e-3 * whole


def test_without_conditioning_the_energy_distance_does_not_depend_on_labels() -> None:
    """The images of an unconditional generator have no label: pairs of one class would be pairs by chance."""
    values = []
    for labels in (batch()[1], torch.zeros(8, dtype=torch.int64)):
        step = build("model.conditional=false")
        prepared_batch = step.objective.prepare(batch()[0], labels, both=True)
        values.append(step.objective.backward_generator(prepared_batch).stats["energy_distance"].detach())
    assert torch.equal(*values)


def test_the_weight_of_the_energy_distance_is_automatic_for_features_and_0_for_pixels() -> None:
    step = build("loss.energy_distance=auto")
    assert "energy_distance" in step.objective.stat_names["generator"]
    for preset in set(preset_names()) - {"residual"}:
        _, other = steps.build("loss.energy_distance=auto", preset=preset)
        assert "energy_distance" not in other.objective.stat_names["generator"]
        steps.build("loss.energy_distance=0", preset=preset)


def test_the_energy_distance_needs_a_projected_discriminator() -> None:
    for kind in ("conv", "mlp"):
        with pytest.raises(ConfigError, match=r"loss\.energy_distance = 5\.0: .*model\.discriminator.*'projected'"):
            steps.build("loss.energy_distance=5", f"model.discriminator={kind}")


def test_features_are_conditioned_by_projection_only() -> None:
    with pytest.raises(ConfigError, match=r"model\.conditioning = 'embedding': .*'projected'"):
        build("model.conditioning=embedding")
    step = build("model.conditional=false", "model.conditioning=embedding")
    step(*batch(), step=0, progress=0.0)
    step.check(1)


@pytest.mark.parametrize("generator", ["conv", "mlp"])
def test_every_generator_learns_from_a_projected_discriminator(generator: str) -> None:
    step = build(f"model.generator={generator}", "loss.feature_matching=auto")
    before = [weight.clone() for weight in step.generator.parameters()]
    step(*batch(), step=0, progress=0.0)
    step.check(1)
    assert all((a != b).any() for a, b in zip(before, step.generator.parameters(), strict=True))


@pytest.mark.parametrize("discriminator", ["conv", "mlp"])
def test_a_residual_generator_learns_from_every_discriminator(discriminator: str) -> None:
    settings = ("loss.energy_distance=auto", "loss.r1=0.1", "loss.feature_matching=auto")
    step = build(f"model.discriminator={discriminator}", "model.spectral_norm=false", *settings)
    before = [weight.clone() for weight in step.generator.parameters()]
    step(*batch(), step=0, progress=0.0)
    step.check(1)
    assert all((a != b).any() for a, b in zip(before, step.generator.parameters(), strict=True))


def test_a_step_in_bf16_has_about_the_losses_of_fp32() -> None:
    stats = []
    for name in ("fp32", "bf16"):
        step = build(precision=Precision(name, "cpu", "a test"))
        step(*batch(), step=0, progress=0.0)
        step.check(1)
        stats.append(step.read_stats())
    for key in ("loss_d", "loss_g", "energy_distance"):
        assert stats[1][key] == pytest.approx(stats[0][key], rel=0.05, abs=0.05), key
