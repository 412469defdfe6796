"""A training step: its updates, EMA, penalties, statistics and checks; on a GPU it never waits for the device."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ganctl.training.config.resolve import resolve
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError, TrainingError
from ganctl.training.losses.analytic.backend import AnalyticBackend
from ganctl.training.losses.backend import AutogradBackend, Backend, Batch
from ganctl.training.models.base import Discriminator, Generator, to_float
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step
from tests.unit.training.steps import CPU, SHAPE, batch, build


class CustomDiscriminator(nn.Module):
    """A custom network whose last layer is named like the classification head of ganctl's discriminators."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.classifier = nn.Linear(SHAPE.size, 1)

    def forward(self, images: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(images.flatten(1)).squeeze(1)
        return logits


class BatchNormDiscriminator(CustomDiscriminator):
    """A network whose logit of an image depends on the whole batch."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(SHAPE.size)

    def forward(self, images: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return super().forward(self.normal(images.flatten(1)), label)


class CustomForward(Discriminator):
    """A ganctl.Discriminator with its own forward."""

    def __init__(self, *_: object) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(SHAPE.size, 8)), 8, 10, 128)

    def forward(self, images: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(images, label).square()


def test_either_network_may_be_updated_first() -> None:
    assert [phase.name for phase in build("train.first_update=generator")[1].phases] == ["generator", "discriminator"]
    assert [phase.name for phase in build()[1].phases] == ["discriminator", "generator"]


def test_each_phase_changes_its_own_network_only() -> None:
    _, step = build()
    discriminator_phase, generator_phase = step.phases
    images, labels = batch()
    before = [p.clone() for p in generator_phase.network.parameters()]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    discriminator_phase.backward(Batch(to_float(images), labels))
    discriminator_phase.step(scaler)
    assert all(torch.equal(a, b) for a, b in zip(before, generator_phase.network.parameters(), strict=True))
    before = [p.clone() for p in discriminator_phase.network.parameters()]
    generator_phase.backward(Batch(to_float(images), labels))
    generator_phase.step(scaler)
    assert all(torch.equal(a, b) for a, b in zip(before, discriminator_phase.network.parameters(), strict=True))


def test_the_ema_follows_the_generator_with_its_decay() -> None:
    _, step = build("train.ema_decay=0.9")
    start = [p.clone() for p in step.ema.parameters()]
    step(*batch(), step=10_000, progress=0.0)
    for old, ema, current in zip(start, step.ema.parameters(), step.generator.parameters(), strict=True):
        torch.testing.assert_close(ema, 0.9 * old + 0.1 * current)


def test_the_ema_decay_is_lower_in_the_first_steps() -> None:
    """The decay is (1 + step) / (10 + step) until that exceeds `train.ema_decay`."""
    _, step = build("train.ema_decay=0.9")
    start = [p.clone() for p in step.ema.parameters()]
    step(*batch(), step=8, progress=0.0)
    for old, ema, current in zip(start, step.ema.parameters(), step.generator.parameters(), strict=True):
        torch.testing.assert_close(ema, 0.5 * old + 0.5 * current)


def test_with_ema_decay_0_the_ema_equals_the_generator() -> None:
    _, step = build("train.ema_decay=0", preset="lightning-basic-gan")
    step(*batch(), step=0, progress=0.0)
    for name, tensor in step.ema.state_dict().items():
        assert torch.equal(tensor, step.generator.state_dict()[name]), name


@pytest.mark.parametrize(("progress", "remaining"), [(0.0, 1.0), (0.3, 1.0), (0.6, 0.5), (0.9, 0.0), (1.0, 0.0)])
def test_the_penalty_factor_falls_between_decay_start_and_decay_end(progress: float, remaining: float) -> None:
    _, step = build("optimizer.decay_start=0.3", "optimizer.decay_end=0.9", "loss.penalty_final_factor=0.2")
    step(*batch(), step=0, progress=progress)
    assert step.step_inputs.penalty_factor == pytest.approx(0.2 + 0.8 * remaining)


@pytest.mark.parametrize(
    ("backend", "penalties"),
    [
        (AnalyticBackend, ("r1", "r2")),
        (AutogradBackend, ("r1", "r2")),
        (AutogradBackend, ("wgan_gp",)),
    ],
)
def test_gradient_penalties_at_every_third_step_have_three_times_their_weight(
    backend: type[Backend], penalties: tuple[str, ...]
) -> None:
    def gradients(weight: float, every: int, step_number: int) -> list[torch.Tensor]:
        weights = {"r1": 0.0, "r2": 0.0} | dict.fromkeys(penalties, weight)
        settings = [f"loss.{name}={value}" for name, value in weights.items()]
        _, step = build(*settings, f"loss.penalty_every={every}", backend=backend)
        step(*batch(), step=step_number, progress=0.0)
        return [p.grad for p in step.discriminator.parameters() if p.grad is not None]

    for step_number, weight in enumerate([0.0, 0.0, 0.3, 0.0, 0.0, 0.3]):
        actual, expected = gradients(0.1, 3, step_number), gradients(weight, 1, step_number)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_recorded_penalties_are_means_over_the_steps_that_have_them() -> None:
    def statistics(*, read_after: tuple[int, ...]) -> list[dict[str, float]]:
        _, step = build("loss.penalty_every=2")
        found = []
        for n in range(2):
            step(*batch(), step=n, progress=0.0)
            found += [step.read_stats()] if n in read_after else []
        return found

    first, second = statistics(read_after=(0, 1))
    (both,) = statistics(read_after=(1,))
    assert second["r1"] > 0
    assert (both["r1"], both["r2"]) == (second["r1"], second["r2"])
    assert both["loss_d"] == pytest.approx((first["loss_d"] + second["loss_d"]) / 2)


def test_each_network_has_its_learning_rate_times_the_schedules_factor() -> None:
    _, step = build("optimizer.lr=0.001", "optimizer.lr_discriminator=0.004")
    step(*batch(), step=0, progress=0.0, lr_factor=0.5)
    groups = {phase.name: phase.optimizer.param_groups[0] for phase in step.phases}
    rates = {name: group["lr"] / group["scale"] for name, group in groups.items()}
    assert rates == {"discriminator": 0.002, "generator": 0.0005}


def test_generator_layers_with_fewer_inputs_have_a_higher_learning_rate() -> None:
    config, step = build("optimizer.lr=0.001")
    step(*batch(), step=0, progress=0.0, lr_factor=0.5)
    rates = {parameter: group["lr"] for group in step.phases[1].optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == set(step.generator.parameters())
    first, last = step.generator.get_parameter("net.0.weight"), step.generator.get_parameter("net.5.weight")
    assert rates[first] == pytest.approx(0.0005 * (512 / (config.model.latent_dim + 32 + 256)) ** 0.5)
    assert rates[last] == pytest.approx(0.0005 * (512 / (4 * 9)) ** 0.5)
    assert rates[step.generator.get_parameter("net.0.bias")] == 0.0005
    assert {group["lr"] for group in step.phases[0].optimizer.param_groups} == {0.0005}


def test_a_loss_term_whose_head_the_discriminator_lacks_is_refused() -> None:
    for setting in ("model.conditional=false", "model.conditioning=embedding"):
        with pytest.raises(ConfigError, match=r"loss\.classification = 0\.5: .*\bmodel\.discriminator\b"):
            build("loss.classification=0.5", setting)
    _, step = build("model.discriminator=tests.unit.training.test_step:CustomDiscriminator")
    step(*batch(), step=0, progress=0.0)  # its `classifier` is not used as a head
    with pytest.raises(ConfigError, match=r"loss\.latent_reconstruction = 2\.0: .*\bmodel\.discriminator\b"):
        build("loss.latent_reconstruction=2.0", "model.discriminator=mlp")
    with pytest.raises(ConfigError, match=r"loss\.feature_matching = 1\.0: .*\bmodel\.discriminator\b"):
        build("loss.feature_matching=1.0", "model.conditioning=embedding")
    with pytest.raises(ConfigError, match=r"loss\.classification_generator = 0\.1: .*\bloss\.classification = 0\b"):
        build("loss.classification=0.0", "loss.classification_generator=0.1")
    with pytest.raises(ConfigError, match=r"loss\.rare_weight = 1\.0: .*\bloss\.feature_matching = 0\b"):
        build("loss.rare_weight=1.0", "loss.feature_matching=0.0")


def test_a_discriminator_with_its_own_forward_trains_the_generator_by_its_logits_only() -> None:
    """The meaning of its features is unknown, so no loss term reads them."""
    name = "tests.unit.training.test_step:CustomForward"
    _, step = build(f"model.discriminator={name}")
    grad_enabled: list[bool] = []
    step.discriminator.register_forward_hook(lambda *_: grad_enabled.append(torch.is_grad_enabled()))
    step(*batch(), step=0, progress=0.0)
    # discriminator: real and generated images in one pass; generator: real images without gradients, generated images
    assert grad_enabled == [True, False, True]
    assert "feature_matching" not in step.read_stats()
    with pytest.raises(ConfigError, match=r"loss\.feature_matching = 1\.0: .*\bforward\b"):
        build(f"model.discriminator={name}", "loss.feature_matching=1.0")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_gradient_penalty_with_batch_normalization_is_refused(ranks: int) -> None:
    config, _ = resolve(assignments=["loss.r1=0.1"], environment={})
    generator = build_generator(config.model, SHAPE, 10)
    with pytest.raises(ConfigError, match=r"loss\.r1, loss\.r2, loss\.wgan_gp: .*batch normalization"):
        Step(config, generator, BatchNormDiscriminator(), CPU, ranks=Ranks(0, ranks))


def test_the_generator_may_be_updated_less_often() -> None:
    _, step = build("train.n_critic=3")
    changed = []
    for number in range(6):
        before = [p.clone() for p in step.generator.parameters()]
        step(*batch(), step=number, progress=0.0)
        changed.append(any(not torch.equal(a, b) for a, b in zip(before, step.generator.parameters(), strict=True)))
    assert changed == [False, False, True, False, False, True]
    assert step.read_stats()["loss_g"] > 0.3, "the mean over the updates of the generator"


def test_statistics_are_means_since_the_last_reading() -> None:
    _, step = build()
    step(*batch(), step=0, progress=0.0)
    first = step.read_stats()
    names = "loss_d loss_g real_logit fake_logit discriminator_accuracy r1 r2 classification latent_reconstruction"
    assert set(first) == {*names.split(), "feature_matching", "lr"}
    assert first["r1"] > 0
    step(*batch(), step=1, progress=0.0)
    step(*batch(), step=2, progress=0.0)
    assert step.state_dict()["stats_steps"] == {"discriminator": 2, "penalties": 2, "generator": 2}
    step.read_stats()
    assert step.read_stats()["loss_d"] == 0


def test_penalties_have_no_statistics_of_steps_that_compute_none() -> None:
    _, step = build("loss.penalty_every=2")
    step(*batch(), step=0, progress=0.0)
    assert not {"r1", "r2"} & step.read_stats().keys()
    step(*batch(), step=1, progress=0.0)
    assert step.read_stats()["r1"] > 0


@pytest.mark.parametrize("first", ["discriminator", "generator"])
def test_the_recorded_learning_rate_is_that_of_the_generator(first: str) -> None:
    assignments = ("optimizer.lr=1e-4", "optimizer.lr_discriminator=4e-4", f"train.first_update={first}")
    _, step = build(*assignments, "optimizer.warmup=0")
    step(*batch(), step=0, progress=0.0)
    assert step.read_stats()["lr"] == pytest.approx(1e-4)


@pytest.mark.gpu
def test_a_step_on_cuda_never_waits_for_the_device() -> None:
    config, _ = build()
    cuda = torch.device("cuda")
    generator = build_generator(config.model, SHAPE, 10).to(cuda)
    step = Step(config, generator, build_discriminator(config.model, SHAPE, 10).to(cuda), cuda)
    images, labels = (tensor.to(cuda) for tensor in batch())
    step(images, labels, step=0, progress=0.0)  # the first call may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(images, labels, step=1, progress=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("name", "tensor_of"),
    [
        ("generator.net.3.running_var", lambda step: step.generator.get_buffer("net.3.running_var")),
        ("ema.net.0.weight", lambda step: step.ema.get_parameter("net.0.weight").data),
        (
            "exp_avg_sq of discriminator.features.1.bias",
            lambda step: step.phases[0].optimizer.state[step.discriminator.get_parameter("features.1.bias")][
                "exp_avg_sq"
            ],
        ),
    ],
)
def test_nan_or_inf_in_any_tensor_is_found_and_named(name: str, tensor_of: Callable[[Step], torch.Tensor]) -> None:
    _, step = build(preset="lightning-basic-gan")
    step(*batch(), step=0, progress=0.0)
    assert step.first_nonfinite() is None
    tensor_of(step).view(-1)[0] = float("inf")
    assert step.first_nonfinite() == name
    with pytest.raises(TrainingError, match=rf"{re.escape(name)}: .*\bstep 1\b"):
        step.check(1)


def test_nan_in_the_statistics_of_the_losses_is_an_error() -> None:
    _, step = build()
    step(*batch(), step=0, progress=0.0)
    step.objective.state_dict()["statistics"][0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"losses\.statistics: .*\bstep 1\b"):
        step.check(1)


def test_the_first_nonfinite_tensor_is_named_also_after_all_others_have_followed() -> None:
    _, step = build()
    step(*batch(), step=0, progress=0.0)
    finite_state = copy.deepcopy(step.state_dict())
    step.discriminator.get_parameter("logit.weight").data[0, 0] = float("nan")
    for number in range(1, 4):
        step(*batch(), step=number, progress=0.0)
    assert not any(p.isfinite().all() for p in step.generator.parameters())
    assert step.first_nonfinite() == "discriminator.logit.weight"
    step.load_state_dict(finite_state)
    step(*batch(), step=1, progress=0.0)
    assert step.first_nonfinite() is None


def test_networks_without_a_label_argument_are_called_without_labels() -> None:
    class UnconditionalGenerator(Generator):
        def __init__(self) -> None:
            super().__init__(64, None, SHAPE)
            self.net = nn.Linear(64, SHAPE.size)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.net(z).tanh().view(-1, *SHAPE)  # type: ignore[no-any-return]

    class UnconditionalDiscriminator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(SHAPE.size, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.net(images.flatten(1)).squeeze(1)  # type: ignore[no-any-return]

    settings = ["model.conditional=false", "loss.wgan_gp=1.0", "loss.penalty_every=1"]
    config, _ = resolve(assignments=settings, environment={})
    step = Step(config, UnconditionalGenerator(), UnconditionalDiscriminator(), CPU)
    step(*batch(), step=0, progress=0.0)
    assert step.read_stats()["wgan_gp"] > 0


def test_resuming_on_another_kind_of_device_starts_a_new_reproducible_random_stream() -> None:
    _, step = build()
    step(*batch(), step=0, progress=0.0)
    state = step.state_dict() | {"device": "cuda", "rng": torch.zeros(16, dtype=torch.uint8)}
    first, second = build()[1], build()[1]
    for other in (first, second):
        other.load_state_dict(state)
    assert torch.equal(first.objective.draw_latents(4), second.objective.draw_latents(4))
    assert not torch.equal(first.objective.draw_latents(4), step.objective.draw_latents(4))


def test_ranks_compare_both_networks_and_the_ema_before_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    config, single = build()
    step = Step(config, single.generator, single.discriminator, CPU, ranks=Ranks(0, 2))
    compared: list[object] = []
    monkeypatch.setattr(Ranks, "assert_equal_across_ranks", lambda ranks, what, value: compared.append(value))
    step.check(1)
    for network in (step.generator, step.discriminator, step.ema):
        next(network.parameters()).data += 1
        step.check(1)
        assert compared[-1] != compared[-2]


def test_latent_std_scales_the_latents_of_training() -> None:
    _, step = build("train.latent_std=0.5")
    fakes = step.objective.prepare(*batch(500), both=True).generated
    assert fakes is not None
    assert fakes.latents.std() == pytest.approx(0.5, rel=0.02)
    assert step.objective.draw_latents(500).std() == pytest.approx(0.5, rel=0.02)
