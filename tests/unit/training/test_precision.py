"""Number formats: their choice with its reason, the passes that use them, and the loss scaler of fp16."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import Config
from ganctl.training.device.precision import Precision, choose_precision, set_tf32
from ganctl.training.errors import ConfigError
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step

SHAPE = ImageShape(1, 28, 28)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
WITH_HOOKS = ("model.conditioning=embedding",)  # autograd computes the gradients, so that hooks of parameters run
WITHOUT_PENALTIES = ("loss.r1=0", "loss.r2=0", "loss.name=non-saturating")
WITHOUT_HEADS = (
    *WITHOUT_PENALTIES,
    "loss.classification=0",
    "loss.latent_reconstruction=0",
    "loss.feature_matching=0",
)  # heads always run in fp32


def settings(*assignments: str) -> Config:
    """Small networks, with penalties at each step."""
    return resolve(assignments=["model.base_channels=4", "loss.penalty_every=1", *assignments], environment={})[0]


def step_in(precision: str, *assignments: str) -> Step:
    config = settings(*assignments)
    torch.manual_seed(0)
    networks = build_generator(config.model, SHAPE, 10), build_discriminator(config.model, SHAPE, 10)
    return Step(config, *networks, CPU, precision=Precision(precision, "cpu", "a test"))


def update(step: Step, number: int = 0, seed: int = 1) -> None:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (8, *SHAPE), generator=rng, dtype=torch.uint8)
    step(images, torch.arange(8), step=number, progress=0.0)


def set_machine(monkeypatch: pytest.MonkeyPatch, *, bf16: bool = True, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def timed() -> Precision:
    return Precision("bf16", "cpu", "timed steps")


@pytest.mark.parametrize(
    ("device", "machine", "assignments", "name", "reason"),
    [
        (CPU, {}, (), "bf16", "timed"),
        (CUDA, {"bf16": True}, (), "bf16", "loss scaling"),
        (CUDA, {"bf16": False, "capability": (7, 5)}, (), "fp16", "no bf16"),
        (CUDA, {"bf16": False, "capability": (6, 1)}, (), "fp32", "neither"),
        (CPU, {}, ("train.precision=bf16",), "bf16", "train.precision"),
    ],
)
def test_auto_chooses_the_fastest_reliable_format_of_the_device_with_a_reason(
    device: torch.device, machine: dict[str, bool], assignments: tuple[str, ...], name: str, reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_machine(monkeypatch, **machine)  # type: ignore[arg-type]
    chosen = choose_precision(settings(*assignments), device, fastest_on_cpu=timed)
    assert chosen.name == name
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("device", "precision", "hardware"),
    [(CPU, "fp16", "CPU"), (CUDA, "bf16", "GPU")],
)
def test_the_error_for_a_precision_that_the_device_lacks_names_the_setting_and_auto(
    device: torch.device, precision: str, hardware: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine(monkeypatch, bf16=False)
    with pytest.raises(ConfigError, match=rf"train\.precision = '{precision}': .*{hardware}.*'auto'"):
        choose_precision(settings(f"train.precision={precision}"), device, fastest_on_cpu=timed)


class MatmulDtypes(TorchDispatchMode):
    """Records the dtypes of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types for it
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in flop_registry:  # noqa: SLF001 - the key of torch's registry
            # the layers after the features always run in fp32, and have few elements
            self.dtypes.update(a.dtype for a in args if isinstance(a, Tensor) and a.numel() > 4096)
        return func(*args, **(kwargs or {}))


def matmul_dtypes(name: str, step: Step) -> set[torch.dtype]:
    phase = next(each for each in step.phases if each.name == name)
    images = torch.randint(256, (8, *SHAPE), dtype=torch.uint8)
    batch = step.objective.prepare(images, torch.arange(8), both=True)
    recorder = MatmulDtypes()
    with recorder:
        phase.backward(batch)
    return recorder.dtypes


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("phase", ["generator", "discriminator"])
def test_both_networks_multiply_matrices_in_the_chosen_format(precision: str, dtype: torch.dtype, phase: str) -> None:
    assert matmul_dtypes(phase, step_in(precision, *WITHOUT_HEADS)) == {dtype}


@pytest.mark.parametrize("backend", ["analytic", "autograd"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_penalties_run_in_bf16_with_the_analytic_backend_and_else_in_fp32(precision: str, backend: str) -> None:
    wgan_gp, r1_r2 = ("loss.wgan_gp=1", "train.reuse_fakes=false"), ("loss.r1=1", "loss.r2=1")
    step = step_in(precision, *WITHOUT_HEADS, *(wgan_gp if backend == "autograd" else r1_r2))
    dtypes = matmul_dtypes("discriminator", step)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if backend == "autograd":  # the generator's pass for the fakes runs in half precision
        assert dtypes == {torch.float32, half}
    else:
        assert dtypes == {half if precision == "bf16" else torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_their_averages_and_optimizer_moments_stay_fp32(precision: str) -> None:
    step = step_in(precision)
    update(step)
    tensors: list[Tensor] = [*step.ema.parameters()]
    for phase in step.phases:
        tensors += [*phase.network.parameters()]
        tensors += [value for state in phase.optimizer.state.values() for value in state.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def gradients(step: Step) -> dict[str, Tensor]:
    return {
        f"{phase.name}.{name}": parameter.grad
        for phase in step.phases
        for name, parameter in phase.network.named_parameters()
        if parameter.grad is not None
    }


def test_gradients_in_fp16_equal_those_in_fp32_also_with_penalties() -> None:
    # without feature matching, whose first gradients overflow once because the features hardly vary
    fp32, fp16 = (step_in(precision, "loss.feature_matching=0.0") for precision in ("fp32", "fp16"))
    update(fp32)
    update(fp16)
    assert fp16.read_stats()["loss_scale"] == 65536
    for name, exact in gradients(fp32).items():
        unscaled = gradients(fp16)[name]  # the optimizer divides by the scale in place
        # the discriminator has already made a step, in which signs of tiny gradients differ
        tolerance = 0.01 if name.startswith("discriminator") else 0.1
        assert (unscaled - exact).norm() <= tolerance * exact.norm() + 1e-5, name
    for one, other in zip(fp32.discriminator.parameters(), fp16.discriminator.parameters(), strict=True):
        # Adam's first step is ± the learning rate: only signs of tiny gradients may differ
        assert (one - other).abs().mean() < 0.05 * fp32.phases[0].base_lr


def test_the_feature_matching_loss_in_fp16_equals_that_in_fp32() -> None:
    fp32, fp16 = step_in("fp32"), step_in("fp16")
    update(fp32)
    update(fp16)
    expected, actual = (step.read_stats()["feature_matching"] for step in (fp32, fp16))
    assert actual == pytest.approx(expected, rel=0.05)


def test_gradients_in_fp16_are_clipped_after_division_by_the_loss_scale() -> None:
    """The running RMS is that of unscaled gradients, and scaled ones are 65,536 times as large."""
    fp32, fp16 = (
        step_in(precision, "optimizer.grad_clip_ratio=1.5", "loss.feature_matching=0.0")
        for precision in ("fp32", "fp16")
    )
    for number in range(2):
        update(fp32, number, seed=number)
        update(fp16, number, seed=number)
    clipped = gradients(fp16)
    for name, exact in gradients(fp32).items():
        if exact.norm() > 1e-4:
            assert 0.5 < clipped[name].norm() / exact.norm() < 2, name


def test_an_overflow_in_fp16_skips_only_that_update_and_halves_the_loss_scale_once() -> None:
    step = step_in("fp16", *WITH_HOOKS)
    before = {phase.name: [p.clone() for p in phase.network.parameters()] for phase in step.phases}
    next(step.discriminator.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    update(step)
    changed = {}
    for phase in step.phases:
        pairs = zip(before[phase.name], phase.network.parameters(), strict=True)
        changed[phase.name] = any(not torch.equal(old, new) for old, new in pairs)
    assert changed == {"discriminator": False, "generator": True}
    assert step.read_stats()["loss_scale"] == 65536 / 2
    assert step.first_nonfinite() is None


def test_the_loss_scale_of_fp16_is_part_of_the_state() -> None:
    step, restored = step_in("fp16", *WITH_HOOKS), step_in("fp16", *WITH_HOOKS)
    next(step.discriminator.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    update(step)
    restored.load_state_dict(step.state_dict())
    assert restored.read_stats()["loss_scale"] == 65536 / 2


def test_set_tf32_applies_to_matrix_products_and_cudnn() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        set_tf32(True)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        set_tf32(False)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_in_every_format(precision: str) -> None:
    config = settings(f"train.precision={precision}")
    chosen = choose_precision(config, CUDA, fastest_on_cpu=timed)
    torch.manual_seed(0)
    networks = build_generator(config.model, SHAPE, 10).to(CUDA), build_discriminator(config.model, SHAPE, 10).to(CUDA)
    step = Step(config, *networks, CUDA, precision=chosen)
    for number in range(5):
        images = torch.randint(256, (8, *SHAPE), dtype=torch.uint8, device=CUDA)
        step(images, torch.arange(8, device=CUDA), step=number, progress=0.0)
    assert step.first_nonfinite() is None
