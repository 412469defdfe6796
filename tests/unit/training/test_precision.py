"""Number formats: which one is taken and why, what it covers, and fp16's one scaler for two optimizers."""

from collections import Counter
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
HOOKED = ("model.conditioning=embedding",)  # autograd makes its gradients, and a parameter's hooks are called
UNPENALISED = ("loss.r1=0", "loss.r2=0", "loss.name=non-saturating")
HEADLESS = (
    *UNPENALISED,
    "loss.classification=0",
    "loss.latent_reconstruction=0",
    "loss.feature_matching=0",
)  # heads are fp32 always


def settings(*assignments: str) -> Config:
    return resolve(assignments=["model.base_channels=4", *assignments], environment={})[0]


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
        (CUDA, {"bf16": True}, (), "bf16", "no loss scaling"),
        (CUDA, {"bf16": False, "capability": (7, 5)}, (), "fp16", "has fp16 in hardware and no bf16"),
        (CUDA, {"bf16": False, "capability": (6, 1)}, (), "fp32", "neither"),
        (CPU, {}, ("train.precision=bf16",), "bf16", "set by train.precision"),
    ],
)
def test_auto_takes_the_fastest_sound_format_of_the_device_and_says_why(
    device: torch.device, machine: dict[str, bool], assignments: tuple[str, ...], name: str, reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_machine(monkeypatch, **machine)  # type: ignore[arg-type]
    chosen = choose_precision(settings(*assignments), device, fastest_on_cpu=timed)
    assert chosen.name == name
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("device", "asked", "message"),
    [(CPU, "fp16", "CPUs have no fast fp16"), (CUDA, "bf16", "this GPU has no bf16")],
)
def test_what_the_device_cannot_do_is_refused_with_what_it_can(
    device: torch.device, asked: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_machine(monkeypatch, bf16=False)
    with pytest.raises(ConfigError, match=f"train.precision = '{asked}': {message}.*'fp32' or 'auto'"):
        choose_precision(settings(f"train.precision={asked}"), device, fastest_on_cpu=timed)


class Products(TorchDispatchMode):
    """The formats in which matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has given it no types
        self.seen: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in flop_registry:  # noqa: SLF001 - torch's
            # what judges the features is fp32 always, and has few numbers
            self.seen.update(a.dtype for a in args if isinstance(a, Tensor) and a.numel() > 4096)
        return func(*args, **(kwargs or {}))


def products_of(phase: str, step: Step) -> set[torch.dtype]:
    learn = next(each for each in step.phases if each.name == phase)
    images = torch.randint(256, (8, *SHAPE), dtype=torch.uint8)
    batch = step.objective.prepare(images, torch.arange(8), both=True)
    with Products() as products:
        learn.backward(batch)
    return set(products.seen)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("phase", ["generator", "discriminator"])
def test_both_networks_multiply_in_the_format(precision: str, dtype: torch.dtype, phase: str) -> None:
    assert products_of(phase, step_in(precision, *HEADLESS)) == {dtype}


@pytest.mark.parametrize("gp", [False, True])  # in four passes, by double backward
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_penalties_are_bf16_in_four_passes_and_else_fp32(precision: str, gp: bool) -> None:
    assignments = ("loss.wgan_gp=1", "train.reuse_fakes=false") if gp else ("loss.r1=1", "loss.r2=1")
    found = products_of("discriminator", step_in(precision, *HEADLESS, *assignments))
    few = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if gp:  # the generator's pass that makes its fakes is no part of them
        assert found == {torch.float32, few}
    else:
        assert found == {few if precision == "bf16" else torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_averages_and_moments_stay_fp32(precision: str) -> None:
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


def test_fp16_steps_with_the_gradients_of_fp32_penalties_included() -> None:
    # the first gradients of feature matching, when features hardly vary, overflow once, as GradScaler expects
    fp32, fp16 = (step_in(precision, "loss.feature_matching=0.0") for precision in ("fp32", "fp16"))
    update(fp32)
    update(fp16)
    assert fp16.read_stats()["loss_scale"] == 65536
    for name, exact in gradients(fp32).items():
        unscaled = gradients(fp16)[name]  # the optimizer divides the scale out, in place
        # the generator meets a discriminator that has taken a step already, with other signs of tiny gradients
        tolerance = 0.01 if name.startswith("discriminator") else 0.1
        assert (unscaled - exact).norm() <= tolerance * exact.norm() + 1e-5, name
    for one, other in zip(fp32.discriminator.parameters(), fp16.discriminator.parameters(), strict=True):
        # Adam's first step is ± the learning rate: only signs of tiny gradients may differ
        assert (one - other).abs().mean() < 0.05 * fp32.phases[0].lr


def test_fp16_matches_features_as_fp32_does() -> None:
    fp32, fp16 = step_in("fp32"), step_in("fp16")
    update(fp32)
    update(fp16)
    expected, found = (step.read_stats()["feature_matching"] for step in (fp32, fp16))
    assert found == pytest.approx(expected, rel=0.05)


def test_fp16s_gradients_are_cut_against_their_history_without_their_scale() -> None:
    """A history knows nothing of the scale: with it every gradient would be 65,536 times beyond."""
    fp32, fp16 = (
        step_in(precision, "optimizer.grad_clip_ratio=1.5", "loss.feature_matching=0.0")
        for precision in ("fp32", "fp16")
    )
    for number in range(2):
        update(fp32, number, seed=number)
        update(fp16, number, seed=number)
    found = gradients(fp16)
    for name, exact in gradients(fp32).items():
        if exact.norm() > 1e-4:
            assert 0.5 < found[name].norm() / exact.norm() < 2, name


def test_fp16_leaves_out_only_the_update_whose_gradient_overflowed_and_halves_the_scale_once() -> None:
    step = step_in("fp16", *HOOKED)
    before = {phase.name: [p.clone() for p in phase.network.parameters()] for phase in step.phases}
    next(step.discriminator.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    update(step)
    moved = {}
    for phase in step.phases:
        pairs = zip(before[phase.name], phase.network.parameters(), strict=True)
        moved[phase.name] = any(not torch.equal(old, new) for old, new in pairs)
    assert moved == {"discriminator": False, "generator": True}
    assert step.read_stats()["loss_scale"] == 65536 / 2
    assert step.first_nonfinite() is None


def test_fp16s_scale_is_part_of_the_state() -> None:
    one, other = step_in("fp16", *HOOKED), step_in("fp16", *HOOKED)
    next(one.discriminator.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    update(one)
    other.load_state_dict(one.state_dict())
    assert other.read_stats()["loss_scale"] == 65536 / 2


def test_tf32_is_a_setting() -> None:
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
