"""A captured step gives the numbers of the eager one: by what a graph does, on a CPU; by graphs, on a GPU."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ganctl.training.config.resolve import preset_names, resolve
from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.cuda_graph import WARMUP_STEPS, StepRunner, capture_on_cuda, find_eager_reason
from ganctl.training.step.step import Step
from tests.unit.training.recorded import Recorder, recorded
from tests.unit.training.steps import SHAPE, batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = (
    "model.base_channels=4",
    "train.ema_decay=0.9",
    "optimizer.grad_clip_ratio=0.5",
    "optimizer.decay_start=0.1",
    "train.precision=fp32",
)


def settings(*assignments: str, preset: str = "conv") -> Config:
    return resolve(preset=preset, assignments=[*SMALL, *assignments], environment={})[0]


def update(
    config: Config, device: torch.device = CPU, *, name: str = "fp32", **options: Any
) -> tuple[Step, StepRunner]:
    torch.manual_seed(0)
    generator = build_generator(config.model, SHAPE, 10).to(device)
    discriminator = build_discriminator(config.model, SHAPE, 10).to(device)
    precision = Precision(name, device.type, "asked for")
    step = Step(config, generator, discriminator, device, precision=precision, capturable=True)
    images, labels = (tensor.to(device) for tensor in batch(64))
    return step, StepRunner(step, lambda index: (images[index], labels[index]), **options)


def train(step: Step, one: StepRunner, *, steps: int = 12) -> dict[str, float]:
    """Everything that may change changes: the batch, the rates, the penalties, the average's decay."""
    for n in range(steps):
        index = torch.arange(n, n + 16, device=step.device) % 64
        one((index,), step=n, progress=n / steps, lr_factor=1 / (1 + n))
    return step.read_stats()


def state(step: Step) -> dict[str, torch.Tensor]:
    networks = {"generator": step.generator, "discriminator": step.discriminator, "ema": step.ema}
    tensors = {f"{name}.{key}": t for name, net in networks.items() for key, t in net.state_dict().items()}
    for phase in step.phases:
        for key, moments in phase.optimizer.state_dict()["state"].items():
            tensors |= {f"{phase.name}.{key}.{moment}": value for moment, value in moments.items()}
    return tensors | {f"losses.{key}": value for key, value in step.objective.state_dict().items()}


VARIANTS = [
    *({"preset": name} for name in preset_names()),
    {"assignments": ("train.n_critic=3",)},
    {
        "assignments": (
            "loss.wgan_gp=1.0",
            "loss.r1=0",
            "loss.r2=0",
            "model.spectral_norm=true",
            "train.reuse_fakes=false",
        )
    },
    {"assignments": ("train.first_update=generator", "loss.name=hinge", "train.ema_decay=0"), "name": "bf16"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_replays_give_the_numbers_of_the_eager_step(variant: dict[str, Any]) -> None:
    config = settings(*variant.get("assignments", ()), preset=variant.get("preset", "conv"))
    name = variant.get("name", "fp32")
    plain, eager = update(config, name=name, eager_reason="to compare with")
    captured, replayed = update(config, name=name, capture=recorded)
    assert train(plain, eager) == train(captured, replayed)
    kinds = 2 if config.train.n_critic > 1 else 1
    assert len(replayed.replays) == kinds, "or nothing was replayed"
    assert torch.equal(plain.rng.get_state(), captured.rng.get_state())
    for key, value in state(plain).items():
        assert torch.equal(value, state(captured)[key]), key


@pytest.mark.parametrize("preset", preset_names())
def test_a_capturable_step_never_looks_at_a_number_and_always_does_the_same(preset: str) -> None:
    step, one = update(settings(preset=preset), eager_reason="recorded below")
    train(step, one, steps=WARMUP_STEPS)
    names = []
    for n in (5, 500):
        with Recorder() as recorder:
            one((torch.arange(16),), step=n, progress=n / 1000, lr_factor=n / 1000)
        names.append([name for name in recorder.names if "fill_.Scalar" not in name])  # the step_inputs
    assert "aten._local_scalar_dense.default" not in names[0]
    assert names[0] == names[1]
    assert len(names[0]) > 100, "or nothing was recorded"


def test_a_step_that_cannot_be_captured_goes_on_eagerly_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(work: Callable[[], None], rng: torch.Generator) -> Callable[[], None]:
        torch.rand(1, generator=rng)  # as a capture that breaks off half way
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    config = settings()
    plain, eager = update(config, eager_reason="to compare with")
    refused, one = update(config, capture=refuse)
    with caplog.at_level(logging.WARNING):
        assert train(plain, eager) == train(refused, one)
    assert one.eager_reason == "the capture failed: operation not permitted when stream is capturing"
    assert one.eager_reason in caplog.text
    for key, value in state(plain).items():
        assert torch.equal(value, state(refused)[key]), key


def test_a_resumed_run_captures_anew() -> None:
    config = settings()
    plain, eager = update(config, eager_reason="to compare with")
    captured, replayed = update(config, capture=recorded)
    for step, one in ((plain, eager), (captured, replayed)):
        train(step, one, steps=8)
        saved = copy.deepcopy(step.state_dict())
        train(step, one, steps=3)
        step.load_state_dict(saved)
        one.invalidate()
        train(step, one)
    for key, value in state(plain).items():
        assert torch.equal(value, state(captured)[key]), key


OWN_LOSS = "loss.name=ganctl.training.losses.adversarial:Hinge"  # by its module, as somebody's own loss


@pytest.mark.parametrize(
    ("assignments", "device", "ranks", "reason"),
    [
        ((), CUDA, 1, None),
        ((), CPU, 1, "CUDA graphs need a CUDA device"),
        (("train.cuda_graph=false",), CUDA, 1, "train.cuda_graph is false"),
        ((), CUDA, 2, "ranks exchange gradients between the phases of a step"),
        (
            ("loss.name=ganctl.training.losses.adversarial:Hinge",),
            CUDA,
            1,
            "loss.name is custom and may read tensors on the host",
        ),
        (("loss.name=ganctl.training.losses.adversarial:Hinge", "train.cuda_graph=true"), CUDA, 1, None),
    ],
)
def test_why_a_step_is_not_captured(
    assignments: tuple[str, ...], device: torch.device, ranks: int, reason: str | None
) -> None:
    found = find_eager_reason(settings(*assignments), device, Ranks(0, ranks))
    assert found == reason or (reason is not None and found is not None and found.startswith(reason))


@pytest.mark.parametrize(("device", "ranks"), [(CPU, 1), (CUDA, 2)])
def test_a_graph_that_is_asked_for_where_there_can_be_none_is_an_error(device: torch.device, ranks: int) -> None:
    with pytest.raises(ConfigError, match=r"train.cuda_graph = true: .* Set it to 'auto'"):
        find_eager_reason(settings("train.cuda_graph=true"), device, Ranks(0, ranks))


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_graphs_on_a_gpu_give_the_numbers_of_the_eager_step(variant: dict[str, Any]) -> None:
    config = settings(*variant.get("assignments", ()), preset=variant.get("preset", "conv"))
    name = variant.get("name", "fp32")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        plain, eager = update(config, CUDA, name=name, eager_reason="to compare with")
        captured, replayed = update(config, CUDA, name=name, capture=capture_on_cuda)
        found, expected = train(captured, replayed), train(plain, eager)
    finally:
        torch.use_deterministic_algorithms(False)
    assert replayed.eager_reason is None
    assert found == pytest.approx(expected, rel=1e-4)
    for key, value in state(plain).items():
        torch.testing.assert_close(state(captured)[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.gpu
def test_a_replay_never_waits_for_the_device() -> None:
    step, one = update(settings(), CUDA)
    train(step, one)
    index = torch.arange(16, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        one((index,), step=20, progress=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
