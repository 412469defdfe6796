"""Systems that `ganctl bench quality` compares: GANs of other projects, two of Lucic et al. 2018, and our presets."""

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ganctl.benchmarks.quality.our_trainer import QUIET
from ganctl.training.config.resolve import AUTO, preset_names, resolve
from ganctl.training.config.schema import Config
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.loop.recipe import AutoPreset

_CONFIGS = Path(__file__).parent / "configs"
INSTALL = "install it with 'make bench' (in a checkout) or pip install 'ganctl[bench]'"
# without some of the dependencies that they declare and do not use here: TensorFlow, aim
_INSTALL_PEER = "install it with 'make peers' (in a checkout) or pip install --no-deps "


@dataclass(frozen=True)
class Peer:
    """A GAN of another project: the module that trains it here, and the package that the module needs."""

    module: str  # with a function `train`, see `peers/gan.py`
    package: str | None = None  # as imported
    install: str = ""  # what to do if the package is absent


@dataclass(frozen=True)
class System:
    """A system to train: one of our presets, a config file of our trainer, or a peer."""

    name: str
    description: str  # for the table
    preset: str | None = None
    config_file: Path | None = None
    peer: Peer | None = None

    def settings(self, seconds: float, seed: int, source: str = "mnist") -> Config | None:
        """Returns the settings of our trainer, or None if a peer trains the system.

        A preset's schedules span `seconds`; the other systems have constant learning rates.

        Raises:
            ConfigError: the source is invalid.
            DataError: the preset is `auto`, which looks at the images, and they cannot be read.
        """
        if self.peer is not None:
            return None
        assignments = [*QUIET, f"train.seed={seed}"]
        if self.preset is not None:
            assignments.append(f"train.duration={seconds:g}s")
        config, _ = resolve(
            preset=self.preset,
            config_file=self.config_file,
            assignments=assignments,
            flags={"data.source": ("--data", source)},
            environment={},
            auto=AutoPreset(Ranks()) if self.preset == AUTO else None,
        )
        return config

    def unavailable(self) -> str | None:
        """Returns why the system cannot run here and the remedy, or None if it can."""
        if self.peer is not None:
            package = self.peer.package
            if package is None or importlib.util.find_spec(package):
                return None
            return f"it needs the package {package}: {self.peer.install}"
        if self.preset == AUTO:  # suits every device
            return None
        config = self.settings(1, 0)
        assert config is not None, "it has no peer"
        needs_cuda = self.preset == "gpu" or config.train.device == "cuda"
        if needs_cuda and not torch.cuda.is_available():
            return "it needs a CUDA device, and torch finds none: run it on a machine with one"
        return None


def systems() -> list[System]:
    """Returns all systems in the order of the table; of our presets, the conditional ones."""
    ours = [name for name in preset_names() if resolve(preset=name, environment={})[0].model.conditional]
    peers = "ganctl.benchmarks.peers"
    common = "einops fire kornia kornia-rs retry decorator py tqdm termcolor"
    return [
        System(
            "tutorial",
            'PyTorch Lightning\'s tutorial "basic GAN" as published, by lightning',
            peer=Peer("ganctl.benchmarks.tutorial_lightning", "lightning", INSTALL),
        ),
        System(
            "lightning-basic-gan",
            "our preset lightning-basic-gan: the tutorial, corrected",
            preset="lightning-basic-gan",
        ),
        System("dcgan", "DCGAN of PyTorch's tutorial, in plain PyTorch", peer=Peer(f"{peers}.dcgan_peer")),
        System(
            "sngan",
            f"SNGAN of torch-mimicry{_version('torch-mimicry')}, as in its README",
            peer=Peer(f"{peers}.mimicry_peer", "torch_mimicry", f"{_INSTALL_PEER}torch-mimicry==0.1.16"),
        ),
        System(
            "lightweight-gan",
            f"the package lightweight-gan{_version('lightweight-gan')} with its defaults",
            peer=Peer(
                f"{peers}.lightweight_gan_peer",
                "lightweight_gan",
                f"{_INSTALL_PEER}lightweight-gan==1.2.1 adabelief-pytorch tabulate colorama {common}",
            ),
        ),
        System(
            "stylegan2-pytorch",
            f"the package stylegan2_pytorch{_version('stylegan2-pytorch')} with its defaults",
            peer=Peer(
                f"{peers}.stylegan2_peer",
                "stylegan2_pytorch",
                f"{_INSTALL_PEER}stylegan2-pytorch==1.9.0 vector-quantize-pytorch==0.1.0 {common}",
            ),
        ),
        System("ns-gan", "Lucic et al. 2018, our trainer", config_file=_CONFIGS / "ns-gan.toml"),
        System("wgan-gp", "Lucic et al. 2018, our trainer", config_file=_CONFIGS / "wgan-gp.toml"),
        *(System(name, f"our preset {name}", preset=name) for name in ours),
        System(AUTO, f"our default, the preset {AUTO}: settings for these images and this time", preset=AUTO),
    ]


def _version(distribution: str) -> str:
    """Returns a space and the version of an installed package; empty if it is absent."""
    try:
        return f" {version(distribution)}"
    except PackageNotFoundError:
        return ""
