"""Systems that `ganctl bench quality` compares: the tutorial, two GANs of Lucic et al. 2018, and our presets."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from ganctl.benchmarks.quality.our_trainer import QUIET
from ganctl.training.config.resolve import preset_names, resolve
from ganctl.training.config.schema import Config

_CONFIGS = Path(__file__).parent / "configs"
INSTALL = "install it with 'make bench' (in a checkout) or pip install 'ganctl[bench]'"


@dataclass(frozen=True)
class System:
    """A system to train: one of our presets, a config file of our trainer, or (with neither) the tutorial itself."""

    name: str
    description: str  # for the table
    preset: str | None = None
    config_file: Path | None = None

    def settings(self, seconds: float, seed: int) -> Config | None:
        """Returns the settings of our trainer, or None if Lightning trains the system.

        A preset's schedules span `seconds`; the other systems have constant learning rates.
        """
        if self.preset is None and self.config_file is None:
            return None
        assignments = [*QUIET, f"train.seed={seed}"]
        if self.preset is not None:
            assignments.append(f"train.duration={seconds:g}s")
        config, _ = resolve(
            preset=self.preset, config_file=self.config_file, assignments=assignments, environment={}
        )  # fmt: skip
        return config

    def unavailable(self) -> str | None:
        """Returns why the system cannot run here and the remedy, or None if it can."""
        config = self.settings(1, 0)
        if config is None:
            return None if importlib.util.find_spec("lightning") else f"it needs the package lightning: {INSTALL}"
        needs_cuda = self.preset == "gpu" or config.train.device == "cuda"
        if needs_cuda and not torch.cuda.is_available():
            return "it needs a CUDA device, and torch finds none: run it on a machine with one"
        return None


def systems() -> list[System]:
    """Returns all systems in the order of the table; of our presets, the conditional ones."""
    ours = [name for name in preset_names() if resolve(preset=name, environment={})[0].model.conditional]
    return [
        System("tutorial", 'PyTorch Lightning\'s tutorial "basic GAN" as published, by lightning'),
        System(
            "lightning-basic-gan",
            "our preset lightning-basic-gan: the tutorial, corrected",
            preset="lightning-basic-gan",
        ),
        System("ns-gan", "Lucic et al. 2018, our trainer", config_file=_CONFIGS / "ns-gan.toml"),
        System("wgan-gp", "Lucic et al. 2018, our trainer", config_file=_CONFIGS / "wgan-gp.toml"),
        *(System(name, f"our preset {name}", preset=name) for name in ours),
    ]
