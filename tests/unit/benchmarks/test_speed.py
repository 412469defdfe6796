"""`ganctl bench train`: the compared loops do the same work, and the table shows the measured values."""

import copy
import re
import time
from itertools import pairwise
from typing import Any

import pytest
import torch

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.speed.bare import BareStep
from ganctl.benchmarks.speed.compare import (
    Loop,
    SpeedBenchmark,
    comparison,
    flops_per_image,
    preset_batches,
    ratio,
)
from ganctl.benchmarks.speed.meter import WARM_UP, Meter
from ganctl.benchmarks.speed.straightforward import StraightforwardStep
from ganctl.benchmarks.speed.table import speed_table
from ganctl.training.config.resolve import preset_names, resolve
from ganctl.training.config.schema import Config
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step
from tests.unit.training.steps import SHAPE, batch

CPU = torch.device("cpu")


def networks(*assignments: str, preset: str) -> tuple[Config, Any, Any]:
    config, _ = resolve(preset=preset, assignments=["model.base_channels=4", *assignments], environment={})
    torch.manual_seed(0)
    return (
        config,
        build_generator(config.model, SHAPE, 10).double(),
        build_discriminator(config.model, SHAPE, 10).double(),
    )


@pytest.mark.parametrize("preset", ["conv", "quick", "gpu"])
def test_the_straightforward_step_has_the_losses_of_the_training_step(preset: str) -> None:
    config, generator, discriminator = networks("optimizer.grad_clip_ratio=0.7", preset=preset)
    plain = StraightforwardStep(config, copy.deepcopy(generator), copy.deepcopy(discriminator), CPU)
    step = Step(config, generator, discriminator, CPU)
    for n in range(12):
        step(*batch(), step=n, progress=n / 12, lr_factor=1 - n / 20)
        stats = step.read_stats()
        losses = plain(*batch(), step=n, progress=n / 12, rate=1 - n / 20)
        assert [stats["loss_d"], stats["loss_g"]] == pytest.approx([loss.item() for loss in losses], rel=1e-5), n
    for average, other in zip(step.ema.parameters(), plain.ema.parameters(), strict=True):
        torch.testing.assert_close(average, other, rtol=1e-4, atol=1e-6)


def test_the_bare_loop_has_the_losses_of_the_training_step() -> None:
    config, generator, discriminator = networks(preset="lightning-basic-gan")
    generator, discriminator = generator.float(), discriminator.float()
    bare = BareStep(config, copy.deepcopy(generator), copy.deepcopy(discriminator), CPU, "fp32")
    step = Step(config, generator, discriminator, CPU)
    for n in range(8):
        step(*batch(), step=n, progress=0.0)
        stats = step.read_stats()
        losses = bare(*batch(), step=n)
        assert [stats["loss_d"], stats["loss_g"]] == pytest.approx([loss.item() for loss in losses], rel=1e-5), n
    for average, other in zip(step.ema.state_dict().values(), bare.ema.state_dict().values(), strict=True):
        torch.testing.assert_close(average, other, rtol=1e-5, atol=1e-7)


def test_the_flops_of_the_tutorials_step_are_the_sum_over_its_layers() -> None:
    generator, discriminator = (100, 128, 256, 512, 1024, 784), (784, 512, 256, 1)
    g, d = (sum(a * b for a, b in pairwise(widths)) for widths in (generator, discriminator))
    first_g, first_d = 100 * 128, 784 * 512  # no gradient of the first layers' inputs, which are latents and pixels
    for_generator = g + d + d + (g - first_g) + g  # forward and backward of both, gradients of the generator's weights
    for_discriminator = 2 * (d + (d - first_d) + d)  # forward and backward, with real and with generated images
    assert flops_per_image("lightning-basic-gan", 64) == 2 * (for_generator + for_discriminator)


def test_the_flops_of_rare_penalties_count_in_the_mean_over_the_steps() -> None:
    small = ("model.base_channels=4",)
    rare, frequent, without = (
        flops_per_image("conv", 8, (*small, *further))
        for further in (("loss.penalty_every=4",), ("loss.penalty_every=1",), ("loss.r1=0", "loss.r2=0"))
    )
    assert frequent > without
    assert rare == pytest.approx((frequent + 3 * without) / 4)


def test_the_meter_excludes_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter(seconds=0.1, started=now - 5, device=CPU)
    for _ in range(WARM_UP):
        now += 0.01
        assert not meter.tick(64)
    complete = False
    while not complete:
        now += 0.001
        complete = meter.tick(64)
    assert meter.results["first_step_seconds"] == pytest.approx(5.01)
    assert meter.results["images_per_second"] == pytest.approx(64 / 0.001)
    assert meter.results["memory_bytes"] > 50e6


@pytest.mark.soak
def test_each_loop_is_measured_in_a_process_of_its_own() -> None:
    messages: list[str] = []
    cases = [Loop(system, "conv", 16, "fp32", ("model.base_channels=4",)) for system in ("step", "ours")]
    results = SpeedBenchmark(seconds=0.2, repetitions=2, announce=messages.append).run(cases, ["fp32"])
    assert results["products_flops"]["fp32"] > 0
    for case, result in zip(cases, results["cases"], strict=True):
        assert result["system"] == case.system
        assert len(result["rates"]) == 2
        share = result["images_per_second"] * result["flops_per_image"] / results["products_flops"]["fp32"]
        assert result["share_of_products"] == pytest.approx(share)
        assert share > 0
        assert result["first_step_seconds"] > 0
    assert len(messages) == 4


@pytest.mark.soak
def test_the_automatic_precision_is_reported_with_the_measured_gain() -> None:
    (result,) = SpeedBenchmark(seconds=0.1, repetitions=1, announce=lambda text: None).automatic([("quick", 16)])
    assert (result["preset"], result["batch"]) == ("quick", 16)
    assert result["precision"] in ("fp32", "bf16")
    assert re.search(r"\bbf16\b.*\b\d+\.\d\d times\b", result["reason"])


@pytest.mark.soak
def test_the_error_of_a_failed_loop_has_its_reason() -> None:
    benchmark = SpeedBenchmark(seconds=0.1, repetitions=1, announce=lambda text: None)
    with pytest.raises(BenchError, match=r"model\.widht"):
        benchmark.run([Loop("step", "conv", 16, "fp32", ("model.widht=4",))], ["fp32"])


def test_ratios_pair_the_same_repetition() -> None:
    assert ratio({"rates": [30, 10, 30]}, {"rates": [10, 2, 10]}) == 3, "the machine was slow in the second repetition"


def test_the_table_compares_each_loop_with_its_peer() -> None:
    def record(case: Loop, rate: float) -> dict[str, Any]:
        return {
            "system": case.system, "preset": case.preset, "batch": case.batch, "precision": case.precision,
            "assignments": [], "images_per_second": rate, "rates": [rate], "share_of_products": 0.5,
            "first_step_seconds": 2.0, "memory_bytes": 1e9, "device_bytes": 0,
        }  # fmt: skip

    cases = [record(case, 1000.0 * (i + 1)) for i, case in enumerate(comparison(cuda=False))]
    results = {
        "cases": cases, "products_flops": {"fp32": 3e11}, "repetitions": 1, "seconds": 1.0,
        "skipped": {"lightning": "not installed"},
        "machine": {"device": "CPU", "cores": 2, "torch": "2", "python": "3"},
    }  # fmt: skip
    automatic = [
        {"preset": preset, "batch": size, "precision": "bf16", "reason": f"{preset}'s reason"}
        for preset, size in preset_batches(cuda=False)
    ]
    lines = speed_table(results | {"automatic": automatic}).splitlines()
    assert "| `lightning-basic-gan`, 64 | ours fp32 | 3,000 | 3.00 | 0.50 | 1,000 | 2.0 |" in lines
    assert sum(line.startswith("| `") for line in lines) == len(cases) + len(automatic)
    assert {preset for preset, _ in preset_batches(cuda=False)} == {*preset_names()}
    assert "| `lightning-basic-gan`, 64 | 3,000 | 5,000 (1.67 ×) | bf16 | lightning-basic-gan's reason |" in lines
    assert [line for line in lines if line.startswith("- lightning ") and line.endswith(": not installed")]
