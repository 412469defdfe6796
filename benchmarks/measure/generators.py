"""Series of generators: snapshots of training runs of several architectures, from early to late."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganctl.benchmarks.measure.degradations import Family
from ganctl.training.callbacks.base import Run
from ganctl.training.callbacks.evaluation import Evaluate
from ganctl.training.config.resolve import resolve
from ganctl.training.data.base import ImageSet, Split, premultiply
from ganctl.training.images.source import Source
from ganctl.training.loop.trainer import Trainer

_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the training: at these points generators differ visibly
_BETTER = {"rising": ("coverage", "recall"), "falling": ("fd", "kid")}


def generator_series(source: str, real: ImageSet, presets: tuple[str, ...], images: int) -> Iterator[Family]:
    """Trains one generator per preset on `images` images, and returns its snapshots' images as a family.

    Args:
        source: the data set.
        real: gives the number and the labels of the generated images.
        presets: names of presets.
        images: length of each training.
    """
    for preset in presets:
        snapshots = _Snapshots(real, [round(share * images) for share in _SHARES])
        settings = (f"data.source={source}", f"train.duration={images} images", "checkpoint.monitor=fd")
        config, _ = resolve(preset=preset, assignments=settings, environment={})
        with tempfile.TemporaryDirectory() as folder:
            Trainer(config, run_dir=Path(folder) / "run", callbacks=[snapshots]).fit()
        levels = tuple(f"{count // 1000:,}k" for count in snapshots.points)
        labeled = snapshots.conditional and real.num_classes > 1
        rising = (*_BETTER["rising"], *(["label_accuracy"] if labeled else []))
        yield Family(f"{preset}, images seen", levels, tuple(snapshots.sets), rising, _BETTER["falling"])


class _Snapshots(Evaluate):
    """Takes the place of the evaluation: keeps images of the EMA generator, and computes no scores."""

    def __init__(self, real: ImageSet, points: list[int]) -> None:
        super().__init__()
        self.provided_scores = ("fd",)
        self.points, self.sets, self.conditional = points, list[ImageSet](), True
        self._real = real

    def on_start(self, run: Run) -> None:
        """Loads no scorer."""

    def on_step(self, run: Run) -> None:
        if any(run.images - run.batch_size < point <= run.images for point in self.points[:-1]):
            run.request_evaluation()

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        if split == "val":
            self.conditional = source.conditional
            latents: Tensor = torch.randn(
                len(self._real), source.latent_dim, generator=torch.Generator().manual_seed(1)
            )
            images = premultiply(source.generate(latents, self._real.labels))
            self.sets.append(ImageSet(images, self._real.labels, self._real.class_names))
        return {"fd": 0.0}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, "a run of this bench is not resumed"
