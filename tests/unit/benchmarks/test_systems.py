"""Systems of `ganctl bench quality`: published networks, trained as published; only training time counts."""

import io
import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.tensorboard.summary import image as tensorboard_image

from ganctl.benchmarks import tutorial
from ganctl.benchmarks.peers.gan import Training
from ganctl.benchmarks.quality.our_trainer import QUIET, train
from ganctl.benchmarks.quality.recorder import SNAPSHOTS, Recorder, StepClock
from ganctl.benchmarks.systems import System, systems
from ganctl.training.config.resolve import preset_names, resolve
from ganctl.training.data.base import ImageSet
from ganctl.training.loop.recipe import configure
from ganctl.training.models.base import ImageShape, to_bytes
from ganctl.training.models.build import build_discriminator, build_generator

SHAPE = ImageShape(1, 28, 28)
LUCIC = [system for system in systems() if system.config_file]


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def weights(network: nn.Module) -> list[tuple[int, ...]]:
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, layers)]


def test_the_tutorials_networks_have_the_published_sizes() -> None:
    assert (size(tutorial.generator()), size(tutorial.discriminator())) == (1_510_032, 533_505)  # "1.5 M", "533 K"
    images = tutorial.generator()(torch.randn(3, tutorial.LATENT_DIM))
    assert images.shape == (3, 1, 28, 28)
    probabilities = tutorial.discriminator()(images)
    assert probabilities.shape == (3, 1)
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1, "the last layer is a sigmoid"


def test_the_tutorials_images_are_scored_with_the_pixels_that_tensorboard_displays() -> None:
    network = tutorial.generator()
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.2)
    z = torch.randn(4, tutorial.LATENT_DIM)
    pixels = to_bytes(tutorial.DisplayedGenerator(network)(z))
    assert (pixels == 0).any()
    assert (pixels == 255).any()
    for scored, output in zip(pixels, network(z), strict=True):
        png = tensorboard_image("grid", output.detach(), dataformats="CHW").value[0].image.encoded_image_string
        displayed = torch.tensor(list(Image.open(io.BytesIO(png)).convert("L").tobytes())).view(1, 28, 28)
        assert (displayed - scored.int()).abs().max() <= 1  # TensorBoard truncates, `to_bytes` rounds


@pytest.mark.parametrize("system", LUCIC, ids=lambda system: str(system.name))
def test_lucics_networks_have_the_shapes_of_infogan(system: System) -> None:
    config = system.settings(1, 0)
    assert config is not None
    assert not config.model.conditional
    generator = build_generator(config.model, SHAPE, 10).eval()
    discriminator = build_discriminator(config.model, SHAPE, 10)
    assert weights(generator) == [(1024, 64), (128 * 7 * 7, 1024), (128, 64, 4, 4), (64, 1, 4, 4)]
    assert weights(discriminator) == [(64, 1, 4, 4), (128, 64, 4, 4), (1024, 128 * 7 * 7), (1, 1024)]
    assert discriminator(generator(torch.randn(2, 64))).shape == (2,)
    normalized = sum(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in discriminator.modules())
    assert normalized == (2 if system.name == "ns-gan" else 0), "no batch normalization with a gradient penalty"


def test_lucics_settings_do_not_depend_on_the_default_preset() -> None:
    for system in LUCIC:
        settings = {"optimizer.lr": 1e-3, "optimizer.beta1": 0.5, "optimizer.schedule": "constant"}
        settings |= {"train.batch_size": 64, "train.ema_decay": 0.0, "loss.r1": 0.0, "loss.r2": 0.0}
        if system.name == "ns-gan":
            settings |= {"loss.name": "non-saturating", "loss.wgan_gp": 0.0, "train.n_critic": 1}
        else:
            settings |= {"loss.name": "wasserstein", "loss.wgan_gp": 10.0, "train.n_critic": 5}
            settings |= {"loss.penalty_every": 1, "loss.penalty_final_factor": 1.0}
        config = system.settings(1, 0)
        assert config is not None
        assert settings.items() <= config.flat().items()


def test_presets_of_ganctl_are_trained_for_the_budget() -> None:
    presets = {system.name: system for system in systems() if system.preset}
    conditional = {name for name in preset_names() if configure(name).model.conditional}
    assert presets.keys() == conditional | {"lightning-basic-gan", "auto"}
    for system in presets.values():
        config = system.settings(90, 7)
        assert config is not None
        assert (str(config.train.duration), config.train.seed) == ("90s", 7)


def test_the_preset_auto_is_trained_with_settings_for_the_images(tmp_path: Path) -> None:
    for i in range(40):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (auto,) = (system for system in systems() if system.name == "auto")
    config = auto.settings(90, 7, str(tmp_path))
    assert config is not None
    assert config.model.generator == "residual"
    assert not config.model.conditional
    assert config.augment.probability == "adaptive"
    assert auto.unavailable() is None


def test_an_unavailable_system_has_a_reason_and_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "large.toml").write_text('[train]\ndevice = "cuda"\n')
    reasons = {system.name: system.unavailable() for system in systems()}
    assert re.search(r"\blightning\b.*'make bench'", str(reasons["tutorial"]))
    for name, package in (("sngan", "torch_mimicry"), ("lightweight-gan",) * 2, ("stylegan2-pytorch",) * 2):
        pattern = rf"{package.replace('-', '_')}\b.*'make peers'.*pip install --no-deps {package.replace('_', '.')}==\d"
        assert re.search(pattern, str(reasons[name])), reasons[name]
    assert reasons["dcgan"] is None, "it needs no package"
    assert "CUDA" in str(System("large", "", config_file=tmp_path / "large.toml").unavailable())
    assert System("conv", "", preset="conv").unavailable() is None


def test_snapshots_are_due_twice_in_each_doubling_of_the_time_and_at_the_end() -> None:
    recorder = Recorder(32)
    for second in range(1, 33):
        if recorder.is_due(second):
            recorder.take(second, second, nn.Linear(1, 1))
    assert [snapshot.seconds for snapshot in recorder.snapshots] == [2, 3, 4, 6, 8, 12, 16, 23, 32]
    assert not recorder.is_over(31.9)
    assert recorder.is_over(32)


@pytest.mark.soak  # trains for seconds
def test_snapshots_do_not_count_as_training_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take, now = Recorder.take, 0.0

    def monotonic() -> float:
        nonlocal now
        now += 0.003  # some work before each reading of the clock
        return now

    def take_slowly(*arguments: Any) -> None:
        nonlocal now
        now += 1000
        take(*arguments)

    monkeypatch.setattr(time, "monotonic", monotonic)
    monkeypatch.setattr(Recorder, "take", take_slowly)
    config, _ = resolve(assignments=[*QUIET, "model.base_channels=8"], environment={})
    recorder = Recorder(1)
    train(config, recorder, tmp_path / "run")
    snapshots = recorder.snapshots
    assert len(snapshots) == SNAPSHOTS
    assert 1 <= snapshots[-1].seconds < 2
    assert now > 1000 * SNAPSHOTS
    assert all(a.seconds < b.seconds and a.images < b.images for a, b in itertools.pairwise(snapshots))


def test_a_run_that_reaches_its_duration_ends_with_a_snapshot_of_the_final_ema(tmp_path: Path) -> None:
    config, _ = resolve(assignments=[*QUIET, "model.base_channels=8", "train.duration=640 images"], environment={})
    recorder = Recorder(1000)
    trainer = train(config, recorder, tmp_path / "run")
    assert recorder.snapshots[-1].images == trainer.images == 640
    for name, tensor in trainer.generator.state_dict().items():
        assert torch.equal(tensor, recorder.snapshots[-1].weights[name])


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:The number of training batches:UserWarning")
@pytest.mark.parametrize("source", ["mnist", "module:other"])
def test_lightning_trains_the_tutorial_until_the_budget_is_used_up(tmp_path: Path, source: str) -> None:
    pytest.importorskip("lightning", reason="the package lightning is not installed: 'make peers' installs it")
    from ganctl.benchmarks import tutorial_lightning

    recorder, cpu = Recorder(2), torch.device("cpu")
    pixels = torch.randint(256, (500, 1 if source == "mnist" else 3, 28, 28), dtype=torch.uint8)
    data = ImageSet(pixels, torch.zeros(500, dtype=torch.int64), ())
    sampler = tutorial_lightning.train(Training(source, data, 0, StepClock(recorder, cpu), cpu, tmp_path))
    first, *_, last = recorder.snapshots
    assert last.seconds >= 2
    assert last.seconds > first.seconds
    assert last.images > first.images >= 64
    sampler.network.load_state_dict(last.weights)
    assert sampler.generate(3).shape == (3, *pixels.shape[1:])
    assert any(not torch.equal(last.weights[name], tensor) for name, tensor in first.weights.items())


def test_the_tutorials_mnist_is_normalized_as_published(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="the package lightning is not installed: 'make peers' installs it")
    from ganctl.benchmarks import tutorial_lightning

    data = tutorial_lightning.MNISTDataModule(tmp_path)
    data.prepare_data()
    data.setup("fit")
    image, _ = data.training_images[0]
    assert image.min() == pytest.approx(-0.1307 / 0.3081, abs=1e-3), "although the generator ends in a tanh"
    assert len(data.training_images) == 55_000
