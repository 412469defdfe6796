"""A step that runs out of GPU memory ends the run with a batch size that would fit."""

import re
from pathlib import Path

import pytest
import torch

from ganctl.training.errors import TrainingError
from ganctl.training.loop.trainer import Trainer
from ganctl.training.step.cuda_graph import StepRunner
from tests.conftest import launch

GIB = 2**30


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """A run with a batch of 512 whose first step runs out of memory."""

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(StepRunner, "__call__", fail)
    return launch(tmp_path / "run", extra=("train.batch_size=512", "model.base_channels=32")).build()


def fit(trainer: Trainer, memory: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Trains on a device of `memory` bytes; returns the message of the error."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, memory))
    with pytest.raises(TrainingError) as raised:
        trainer.fit()
    assert raised.value.exit_code == 1
    return str(raised.value)


@pytest.mark.parametrize("share", [0.4, 0.1])
def test_the_error_names_the_setting_the_memory_and_a_batch_that_fits(
    trainer: Trainer, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = trainer.parts.estimate_memory()
    per_image = estimate["activation_bytes"] // 512
    memory = estimate["state_bytes"] + estimate["data_bytes"] + int(share * estimate["activation_bytes"])
    message = fit(trainer, memory, monkeypatch)
    match = re.search(
        r"train\.batch_size = 512: .*(?<![\d.])([\d.]+) GiB\b.* (\d+) images\b.*\btrain\.batch_size=(\d+)$", message
    )
    assert match is not None, message
    assert match[1] == f"{memory / GIB:.1f}"
    assert match[2] == match[3]
    fitting = int(match[2])
    assert fitting & (fitting - 1) == 0, "a power of two"
    needed = estimate["state_bytes"] + estimate["data_bytes"] + fitting * per_image
    assert needed <= memory
    assert needed + 3 * fitting * per_image > memory, "four times as many do not fit"


def test_the_named_batch_is_smaller_than_the_one_that_did_not_fit(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate leaves out what libraries use: a batch that fits by it may not fit."""
    assert "train.batch_size=256" in fit(trainer, 1000 * GIB, monkeypatch)


def test_the_error_of_a_device_that_is_too_small_for_any_batch_names_what_to_lower(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = fit(trainer, GIB // 1024, monkeypatch)
    assert re.search(r"train\.batch_size = 512: .*\bdata\.size\b.*\bmodel\.base_channels\b", message), message


def test_the_run_can_be_started_again_in_its_folder_with_the_named_batch(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(trainer, 1000 * GIB, monkeypatch)
    monkeypatch.undo()
    assert launch(tmp_path / "run", extra=("train.batch_size=256",)).build(max_steps=1).fit().steps == 1
