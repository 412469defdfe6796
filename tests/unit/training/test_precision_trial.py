"""`train.precision = "auto"` on a CPU: timed steps decide, whatever else the machine does, and leave no trace."""

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
WORDS = [word for setting in AUTO for word in ("--set", setting)]


def work(*, bf16: float, waits: float = 0.0, log: list[tuple[str, int]] | None = None) -> Callable[[str, int], None]:
    """A step of 1 ms of CPU time an image in fp32, of `bf16` ms in bf16, where it also waits `waits` seconds."""

    def run(name: str, images: int) -> None:
        if log is not None:
            log.append((name, images))
        ends = time.thread_time() + images * (0.001 if name == "fp32" else 0.001 * bf16)
        while time.thread_time() < ends:
            pass
        if name == "bf16":
            time.sleep(waits)

    return run


@pytest.mark.parametrize(("bf16", "fastest"), [(0.5, "bf16"), (0.8, "bf16"), (0.97, "fp32"), (1.5, "fp32")])
def test_bf16_is_taken_where_it_wins_by_a_tenth(bf16: float, fastest: str) -> None:
    trial, _ = time_step(work(bf16=bf16), 16)
    assert (trial.fastest, trial.images) == (fastest, 16)
    assert f"{trial.gain:.2f} times as fast" in trial.reason


def test_waiting_for_a_busy_core_does_not_decide() -> None:
    trial, _ = time_step(work(bf16=0.5, waits=0.02), 16)
    assert trial.fastest == "bf16"


def test_a_step_of_seconds_is_timed_on_few_images_and_few_times() -> None:
    log: list[tuple[str, int]] = []
    trial, _ = time_step(lambda name, images: work(bf16=0.5, log=log)(name, 100 * images), 256)
    assert trial.fastest == "bf16"
    assert len(log) <= 6  # each of 0.4 s and 0.2 s
    assert {images for _, images in log} == {400}


def test_the_trial_uses_one_thread_and_gives_the_others_back() -> None:
    before, seen = torch.get_num_threads(), set()
    time_step(lambda name, images: seen.add(torch.get_num_threads()), 4)
    assert (seen, torch.get_num_threads()) == ({1}, before)


@pytest.mark.parametrize("preset", ["conv", "lightning-basic-gan"])
def test_a_run_with_auto_is_the_run_with_the_format_that_auto_took(tmp_path: Path, preset: str) -> None:
    def train(precision: str) -> tuple[str, list[str]]:
        settings = [*SHORT, f"train.precision={precision}"]
        trainer = Session(preset=preset, assignments=settings, run_dir=tmp_path / precision).build(max_steps=3)
        result = trainer.fit()
        assert result.last is not None
        networks = read_checkpoint(result.last).state["networks"]
        digests = [weights_digest(networks[part]) for part in ("generator", "discriminator", "ema")]
        return trainer.config.train.precision, digests

    taken, digests = train("auto")
    assert train(taken) == (taken, digests)


def dry_run() -> Result:
    return CliRunner().invoke(cli, ["train", *WORDS, "--dry-run", "--json"])


def test_the_reason_tells_the_times() -> None:
    told = str(one_object(dry_run().stdout)["precision_reason"])
    assert re.search(r"takes one thread [\d.]+ ms in fp32 and [\d.]+ ms in bf16: [\d.]+ times as fast", told), told


def test_later_runs_take_what_a_steady_trial_gave_and_damage_to_it_does_not_matter(
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
    assert third["precision_reason"] == f"{second['precision_reason']} (timed by an earlier run)"
    (kept,) = folder.glob("*.json")
    kept.write_text('{"seconds": {"fp32": 0.1, "bf16": 0.5}, "images": 32}')
    assert one_object(dry_run().stdout)["precision"] == "fp32"
    for damaged in ("{", '{"seconds": {"fp32": 0.1, "bf16": 0}, "images": 32}'):
        kept.write_text(damaged)
        caplog.clear()
        assert one_object(dry_run().stdout)["precision"] == "bf16"
        assert "is damaged" in caplog.text


@pytest.mark.parametrize("error", ["RuntimeError", "AssertionError", "TypeError"])
def test_a_network_that_bf16_does_not_suit_trains_in_fp32(error: str, ganctl: Ganctl, tmp_path: Path) -> None:
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
            raise RuntimeError("my kernel knows float32 alone")
        return torch.tanh(images).view(-1, *self.shape)
""".replace("RuntimeError", error)
    )
    done = ganctl("train", *WORDS, "--set", "model.generator=own_fp32:Flat", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    record = one_object(done.stdout)
    assert record["precision"] == "fp32"
    assert "my kernel knows float32 alone" in str(record["precision_reason"])


def test_all_ranks_take_the_same_format(ganctl: Ganctl) -> None:
    done = ganctl("train", *WORDS, "--nproc", 2, "--device", "cpu", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    record = one_object(done.stdout)
    assert record["ranks"] == 2
    assert re.search("a trial step on (4|16) images", str(record["precision_reason"]))  # at most half of a batch
