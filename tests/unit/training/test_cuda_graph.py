"""CUDA graphs: a captured step computes the same as an eager one. The CPU tests replay recorded operations instead."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ganctl.training.config.resolve import preset_names
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.errors import ConfigError
from ganctl.training.step.cuda_graph import WARMUP_STEPS, capture_on_cuda, find_eager_reason
from tests.unit.training.recorded import Recorder, recorded
from tests.unit.training.runners import build_runner, settings, state, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
VARIANTS = [
    *({"preset": name} for name in preset_names() if name != "residual"),  # the last variant has it
    {"assignments": ("train.n_critic=3", "loss.penalty_every=1")},
    {"assignments": ("loss.penalty_every=3",)},
    {"assignments": ("augment.probability=adaptive", "augment.ramp=100", "augment.target=0.01", "augment.flip=true")},
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
    {"assignments": ("augment.probability=adaptive", "augment.ramp=100", "loss.r1=0.1"), "preset": "residual"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_replays_compute_the_same_as_the_eager_step(variant: dict[str, Any]) -> None:
    config = settings(*variant.get("assignments", ()), preset=variant.get("preset", "conv"))
    name = variant.get("name", "fp32")
    eager_step, eager_runner = build_runner(config, name=name, eager_reason="for comparison")
    captured_step, captured_runner = build_runner(config, name=name, capture=recorded)
    assert train(eager_step, eager_runner) == train(captured_step, captured_runner)
    kinds = 2 if config.train.n_critic > 1 or config.loss.penalty_every > 1 else 1
    assert len(captured_runner.replays) == kinds, "nothing was replayed"
    assert torch.equal(eager_step.rng.get_state(), captured_step.rng.get_state())
    for key, value in state(eager_step).items():
        assert torch.equal(value, state(captured_step)[key]), key


@pytest.mark.parametrize("augmented", ["augment.probability=0.0", "augment.probability=adaptive"])
@pytest.mark.parametrize("preset", preset_names())
def test_a_capturable_step_reads_no_tensor_on_the_host_and_repeats_its_operations(preset: str, augmented: str) -> None:
    step, runner = build_runner(settings(augmented, preset=preset), eager_reason="recorded by the test")
    train(step, runner, steps=WARMUP_STEPS)
    names = []
    for n in (7, 499):  # every fourth step: the penalties are due in each preset that has any
        with Recorder() as recorder:
            runner((torch.arange(16),), step=n, progress=n / 1000, lr_factor=n / 1000)
        names.append([name for name in recorder.names if "fill_.Scalar" not in name])  # writes a step input
    assert "aten._local_scalar_dense.default" not in names[0]
    assert names[0] == names[1]
    assert len(names[0]) > 100, "nothing was recorded"


def test_a_step_whose_capture_fails_runs_eagerly_and_logs_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    def fail(work: Callable[[], None], rng: torch.Generator) -> Callable[[], None]:
        torch.rand(1, generator=rng)  # as a capture that fails after its first operations
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    config = settings()
    eager_step, eager_runner = build_runner(config, eager_reason="for comparison")
    failed_step, failed_runner = build_runner(config, capture=fail)
    with caplog.at_level(logging.WARNING):
        assert train(eager_step, eager_runner) == train(failed_step, failed_runner)
    reason = failed_runner.eager_reason
    assert reason is not None
    assert reason.endswith("operation not permitted when stream is capturing")
    assert reason in caplog.text
    for key, value in state(eager_step).items():
        assert torch.equal(value, state(failed_step)[key]), key


def test_a_resumed_run_captures_again() -> None:
    config = settings()
    eager_step, eager_runner = build_runner(config, eager_reason="for comparison")
    captured_step, captured_runner = build_runner(config, capture=recorded)
    for step, runner in ((eager_step, eager_runner), (captured_step, captured_runner)):
        train(step, runner, steps=8)
        saved = copy.deepcopy(step.state_dict())
        train(step, runner, steps=3)
        step.load_state_dict(saved)
        runner.invalidate()
        train(step, runner)
    for key, value in state(eager_step).items():
        assert torch.equal(value, state(captured_step)[key]), key


NCCL, GLOO = Ranks(0, 2), Ranks(0, 2, gpu_backend="gloo")
CUSTOM_LOSS = "loss.name=ganctl.training.losses.adversarial:Hinge"  # named by its module, as a custom loss


@pytest.mark.parametrize(
    ("assignments", "device", "ranks", "reason"),
    [
        ((), CUDA, Ranks(), None),
        ((), CUDA, NCCL, None),
        ((), CPU, Ranks(), "CUDA device"),
        ((), CPU, NCCL, "CUDA device"),
        ((), CUDA, GLOO, "by gloo; a graph needs PyTorch with NCCL"),
        (("train.cuda_graph=false",), CUDA, Ranks(), "train.cuda_graph is false"),
        ((CUSTOM_LOSS,), CUDA, NCCL, "loss.name"),
        ((CUSTOM_LOSS, "train.cuda_graph=true"), CUDA, Ranks(), None),
    ],
)
def test_a_step_that_is_not_captured_has_a_reason(
    assignments: tuple[str, ...], device: torch.device, ranks: Ranks, reason: str | None
) -> None:
    result = find_eager_reason(settings(*assignments), device, ranks)
    assert result is None if reason is None else result is not None and reason in result


@pytest.mark.parametrize(("device", "ranks", "reason"), [(CPU, Ranks(), "CUDA device"), (CUDA, GLOO, "gloo")])
def test_cuda_graph_true_is_an_error_if_a_step_cannot_be_captured(
    device: torch.device, ranks: Ranks, reason: str
) -> None:
    with pytest.raises(ConfigError, match=rf"train\.cuda_graph = true: .*{reason}.*'auto'"):
        find_eager_reason(settings("train.cuda_graph=true"), device, ranks)


@pytest.mark.gpu
# the gradients of resizing and pooling, of which the residual preset has some
@pytest.mark.filterwarnings("ignore:.* does not have a deterministic implementation:UserWarning")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_graphs_on_a_gpu_compute_the_same_as_the_eager_step(variant: dict[str, Any]) -> None:
    config = settings(*variant.get("assignments", ()), preset=variant.get("preset", "conv"))
    name = variant.get("name", "fp32")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        eager_step, eager_runner = build_runner(config, CUDA, name=name, eager_reason="for comparison")
        captured_step, captured_runner = build_runner(config, CUDA, name=name, capture=capture_on_cuda)
        losses, expected = train(captured_step, captured_runner), train(eager_step, eager_runner)
    finally:
        torch.use_deterministic_algorithms(False)
    assert captured_runner.eager_reason is None
    assert losses == pytest.approx(expected, rel=1e-4)
    for key, value in state(eager_step).items():
        torch.testing.assert_close(state(captured_step)[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.gpu
@pytest.mark.parametrize("augmented", ["augment.probability=0.0", "augment.probability=adaptive"])
def test_a_replay_never_waits_for_the_device(augmented: str) -> None:
    step, runner = build_runner(settings(augmented), CUDA)
    train(step, runner)
    index = torch.arange(16, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for n in (20, 23):  # without and with penalties
            runner((index,), step=n, progress=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
