"""GANs of other projects in `ganctl bench quality`: no loss of images, a fair clock, narrow shims."""

import importlib
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.peers import dcgan_peer
from ganctl.benchmarks.peers.gan import Fit, Training, import_without, power_of_two, run_on_cpu
from ganctl.benchmarks.quality.recorder import Recorder, StepClock
from ganctl.benchmarks.systems import systems
from ganctl.training.data.base import ImageSet, premultiply
from ganctl.training.models.base import ImageShape
from tests.any_images import disks, save_folder

CPU = torch.device("cpu")


def random_images(n: int, channels: int, side: int) -> Tensor:
    """Images as in an ImageSet: with alpha, colors are premultiplied, and alpha is high enough to restore them."""
    images = torch.randint(256, (n, channels, side, side), generator=torch.Generator().manual_seed(0))
    if channels == 4:
        images[:, 3] = torch.where(images[:, 3] < 128, 0, 255)
    return premultiply(images.to(torch.uint8))


@pytest.mark.parametrize("premultiplied", [True, False])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 100), (4, 20), (4, 64)])
def test_images_that_are_padded_and_cropped_back_are_unchanged(channels: int, side: int, premultiplied: bool) -> None:
    images = random_images(5, channels, side)
    shape = ImageShape(channels, side, side)
    fit = Fit(shape, power_of_two(shape), channels, premultiplied)
    fitted = fit.to_peer(images)
    assert fitted.shape == (5, channels, fit.side, fit.side)
    assert fitted.dtype == torch.uint8
    assert premultiply(fit.from_peer(fitted / 255)).equal(images)


def test_the_padding_repeats_the_edge() -> None:
    images = random_images(2, 3, 28)
    fitted = Fit(ImageShape(3, 28, 28), 32, 3).to_peer(images)
    assert fitted[:, :, 2:30, 2:30].equal(images)
    assert fitted[:, :, 0, 2:30].equal(images[:, :, 0])
    assert fitted[:, :, 2:30, 31].equal(images[:, :, :, 27])


def test_gray_images_are_copied_to_three_channels_and_averaged_back() -> None:
    images, fit = random_images(4, 1, 28), Fit(ImageShape(1, 28, 28), 32, 3)
    fitted = fit.to_peer(images)
    assert fitted.shape == (4, 3, 32, 32)
    assert fit.from_peer(fitted / 255).equal(images)


@pytest.mark.parametrize(("side", "expected"), [(16, 32), (28, 32), (32, 32), (36, 64), (64, 64), (128, 128)])
def test_sides_are_padded_to_powers_of_two(side: int, expected: int) -> None:
    assert power_of_two(ImageShape(3, side, side)) == expected


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_dcgan_has_the_size_of_the_tutorials_networks() -> None:
    assert (size(dcgan_peer.generator(64, 3)), size(dcgan_peer.discriminator(64, 3))) == (3_576_704, 2_765_568)


@pytest.mark.parametrize(("side", "channels"), [(32, 1), (64, 4), (128, 3)])
def test_dcgan_fits_the_images(side: int, channels: int) -> None:
    images = dcgan_peer.generator(side, channels)(torch.randn(2, 100, 1, 1))
    assert images.shape == (2, channels, side, side)
    assert dcgan_peer.discriminator(side, channels)(images).shape == (2,)


def test_dcgan_trains_until_the_budget_is_used_up_and_draws_from_the_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(now))  # each reading of the clock takes a second
    data = ImageSet(random_images(12, 3, 20), torch.zeros(12, dtype=torch.int64), ())
    recorder = Recorder(8)
    sampler = dcgan_peer.train(Training("random", data, 0, StepClock(recorder, CPU), CPU, tmp_path))
    first, *_, last = recorder.snapshots
    assert last.seconds >= 8
    assert last.images > first.images == 12, "every real image counts"
    drawn = []
    for snapshot in (first, last, last):
        sampler.network.load_state_dict(snapshot.weights)
        torch.manual_seed(0)
        drawn.append(sampler.generate(5))
    assert drawn[0].shape == (5, 3, 20, 20)
    assert drawn[0].dtype == torch.uint8
    assert not drawn[0].equal(drawn[1]), "later weights draw other images"
    assert drawn[1].equal(drawn[2])


def test_the_clock_counts_neither_the_start_nor_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    recorder, network = Recorder(10), nn.Linear(1, 1)
    clock = StepClock(recorder, CPU)
    now = 100.0  # a long start
    clock.start()
    now = 104.0
    assert not clock.step(64, network)
    clock.start()  # the next step
    with clock.pause():
        now = 1000.0
    now = 1005.0
    assert not clock.step(64, network), "nine seconds of training"
    now = 1006.0
    assert clock.step(64, network)
    assert [(s.seconds, s.images) for s in recorder.snapshots] == [(4, 64), (9, 128), (10, 192)]


def test_a_module_that_asserts_cuda_or_imports_absent_packages_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demanding.py").write_text(
        "import torch\nimport tracker\nfrom tracker.parts import run\nassert torch.cuda.is_available()\nfound = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert import_without("demanding", "tracker", "tracker.parts").found == 1
    assert not {"tracker", "tracker.parts"} & sys.modules.keys(), "other modules do not get the stand-ins"
    assert not torch.cuda.is_available()


def test_on_a_cpu_the_cuda_calls_of_a_package_return_tensors_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Tensor, nn.Module):
        monkeypatch.setattr(kind, "cuda", kind.cuda)  # restored after the test
    (tmp_path / "moving.py").write_text(
        "import torch\ndef zeros():\n    return torch.zeros(2, device=torch.device('cuda:0')).cuda(0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    moving = importlib.import_module("moving")
    run_on_cpu(moving)
    assert moving.zeros().device == CPU
    assert next(nn.Linear(1, 1).cuda(0).parameters()).device == CPU


PEERS = [system for system in systems() if system.peer and system.peer.module.startswith("ganctl.benchmarks.peers.")]


@pytest.mark.soak  # a step of SNGAN takes half a minute on two cores
@pytest.mark.parametrize("system", PEERS, ids=lambda system: str(system.name))
@pytest.mark.parametrize("channels", [1, 4])
def test_each_peer_trains_and_draws_images_of_the_data_sets_shape(system: Any, channels: int, tmp_path: Path) -> None:
    if (reason := system.unavailable()) is not None:
        pytest.skip(reason)
    images = disks(200, 20)
    source = save_folder(tmp_path / "data", images if channels == 4 else images[..., 3])
    (tmp_path / "out").mkdir()
    arguments = [f"--system={system.name}", f"--data={source}", "--seed=0", "--seconds=0.1", "--num-images=12"]
    done: subprocess.CompletedProcess[str] = run_module(
        ["ganctl.benchmarks.quality.one_run", *arguments, "--curve-images=5", f"--out={tmp_path / 'out'}"]
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out/run.npz") as arrays:
        assert len(arrays["labels"]) == 0
        last = len(arrays["seconds"]) - 1
        assert arrays["images_seen"][-1] >= 30
    drawn = np.load(tmp_path / f"out/{last}.npy")
    assert drawn.shape == (12, channels, 20, 20)
    assert drawn.dtype == np.uint8
    assert len({image.tobytes() for image in drawn}) > 1
