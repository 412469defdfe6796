"""`train.precision = "auto"` on a CPU: timed steps choose the format, independent of other load and without effects."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from ganctl.main import cli
from ganctl.training.checkpoint.format import read_checkpoint, weights_digest
from ganctl.training.loop.precision_trial import Trial, time_step
from ganctl.training.loop.session import Session
from tests.conftest import SHORT, Ganctl, one_object

AUTO = (*SHORT, "train.precision=auto")
FLAGS = [argument for setting in AUTO for argument in ("--set", setting)]


def busy_step(
    *, bf16: float, wait: float = 0.0, log: list[tuple[str, int]] | None = None
) -> Callable[[str, int], None]:
    """Returns a step that uses 1 ms of CPU time an image in fp32, and `bf16` ms in bf16, where it also waits.

    Args:
        bf16: CPU time of an image in bf16, in milliseconds.
        wait: sleep of each bf16 step, in seconds.
        log: receives the format and the number of images of each step.
    """

    def run(name: str, images: int) -> None:
        if log is not None:
            log.append((name, images))
        end = time.thread_time() + images * (0.001 if name == "fp32" else 0.001 * bf16)
        while time.thread_time() < end:
            pass
        if name == "bf16":
            time.sleep(wait)

    return run


@pytest.mark.parametrize(("bf16", "fastest"), [(0.5, "bf16"), (0.8, "bf16"), (0.97, "fp32"), (1.5, "fp32")])
def test_bf16_is_chosen_if_it_is_faster_by_a_tenth(bf16: float, fastest: str) -> None:
    trial, _ = time_step(busy_step(bf16=bf16), 16)
    assert (trial.fastest, trial.images) == (fastest, 16)
    assert f"{trial.gain:.2f}" in trial.reason


def test_the_whole_batch_is_timed_if_that_takes_a_second() -> None:
    trial, _ = time_step(busy_step(bf16=0.5), 256)
    assert trial.images == 256


def test_time_without_cpu_use_does_not_change_the_choice() -> None:
    trial, _ = time_step(busy_step(bf16=0.5, wait=0.02), 16)
    assert trial.fastest == "bf16"


def test_a_slow_step_is_timed_on_few_images_and_few_times() -> None:
    log: list[tuple[str, int]] = []
    trial, _ = time_step(lambda name, images: busy_step(bf16=0.5, log=log)(name, 100 * images), 256)
    assert trial.fastest == "bf16"
    assert len(log) <= 6  # of 0.4 s in fp32 and 0.2 s in bf16 each
    assert {images for _, images in log} == {400}


def test_the_trial_uses_one_thread_and_restores_the_number_of_threads() -> None:
    before, used = torch.get_num_threads(), set()
    time_step(lambda name, images: used.add(torch.get_num_threads()), 4)
    assert (used, torch.get_num_threads()) == ({1}, before)


@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan"])
def test_a_run_with_auto_equals_a_run_with_the_format_that_auto_chose(tmp_path: Path, preset: str) -> None:
    def train(precision: str) -> tuple[str, list[str]]:
        settings = [*SHORT, f"train.precision={precision}"]
        trainer = Session(preset=preset, assignments=settings, run_dir=tmp_path / precision).build(max_steps=3)
        result = trainer.fit()
        assert result.last is not None
        networks = read_checkpoint(result.last).state["networks"]
        digests = [weights_digest(networks[part]) for part in ("generator", "discriminator", "ema")]
        return trainer.config.train.precision, digests

    chosen, digests = train("auto")
    assert train(chosen) == (chosen, digests)


def dry_run() -> Result:
    return CliRunner().invoke(cli, ["train", *FLAGS, "--dry-run", "--json"])


def test_the_reason_names_both_times_and_the_gain() -> None:
    reason = str(one_object(dry_run().stdout)["precision_reason"])
    assert re.search(r"[\d.]+ ms in fp32\b.*[\d.]+ ms in bf16: [\d.]+ times", reason), reason


def test_later_runs_use_the_cached_result_of_a_steady_trial_unless_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache/ganctl/precision"
    trials = []

    def trial(run: object, batch: int) -> tuple[Trial, bool]:
        trials.append(batch)
        return Trial({"fp32": 1.0, "bf16": 0.5}, batch), len(trials) > 1

    monkeypatch.setattr("ganctl.training.loop.precision_trial.time_step", trial)
    dry_run()
    assert not folder.exists(), "the first trial was not steady"
    second, third = (one_object(dry_run().stdout) for _ in range(2))
    assert len(trials) == 2
    assert second["precision"] == third["precision"] == "bf16"
    assert str(third["precision_reason"]).startswith(f"{second['precision_reason']} ("), "with the origin of the times"
    (cached,) = folder.glob("*.json")
    cached.write_text('{"seconds": {"fp32": 0.1, "bf16": 0.5}, "images": 32}')
    assert one_object(dry_run().stdout)["precision"] == "fp32"
    for damaged in ("{", '{"seconds": {"fp32": 0.1, "bf16": 0}, "images": 32}'):
        cached.write_text(damaged)
        caplog.clear()
        assert one_object(dry_run().stdout)["precision"] == "bf16"
        assert any(str(cached) in message and "damaged" in message for message in caplog.messages)


@pytest.mark.parametrize("error", ["RuntimeError", "AssertionError", "TypeError"])
def test_a_network_that_fails_in_bf16_trains_in_fp32(error: str, ganctl: Ganctl, tmp_path: Path) -> None:
    (tmp_path / "own_fp32.py").write_text(
        """
import torch
from torch import nn
from ganctl.training.models.base import Generator

class Flat(Generator):
    def __init__(self, settings, shape, classes):
        super().__init__(settings.latent_dim, classes, shape)
        self.product = nn.Linear(settings.latent_dim, shape.size)

    def forward(self, z, label=None):
        images = self.product(z)
        if images.dtype != torch.float32:
            raise RuntimeError("my kernel supports float32 only")
        return torch.tanh(images).view(-1, *self.shape)
""".replace("RuntimeError", error)
    )
    result = ganctl("train", *FLAGS, "--set", "model.generator=own_fp32:Flat", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    record = one_object(result.stdout)
    assert record["precision"] == "fp32"
    assert "my kernel supports float32 only" in str(record["precision_reason"])


@pytest.mark.soak
def test_all_ranks_choose_the_same_format(ganctl: Ganctl) -> None:
    result = ganctl("train", *FLAGS, "--nproc", 2, "--device", "cpu", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    record = one_object(result.stdout)
    assert record["ranks"] == 2
    assert re.search(r"\b(4|16) images\b", str(record["precision_reason"]))  # at most half of a batch
