"""The callback Diagnostics: warns of a collapse, of an overfitting discriminator, and of copies of training images."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganctl.training.augment.probability import MAX_PROBABILITY
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.logs import append_text
from ganctl.training.data.base import Split, premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.neighbors import MemorizationDetector
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.images.source import Source
from ganctl.training.losses.terms import ENERGY_DISTANCE

_IMAGES = 256  # generated and compared in each evaluation
_SEED = 10  # of their latents
_FEW = 10_000  # training images; a generator does not copy more of them, and augmentation hardly helps
_COLLAPSED = 0.2  # diversity
_COLLAPSED_EVALUATIONS = 2  # in a row
_EARLY = 20_000  # images trained on; before that, generated images may be alike
_WINS = 0.98  # accuracy of a discriminator from which the generator learns nothing
_LONG = 1000  # steps
_log = logging.getLogger(__name__)


class Diagnostics(Callback):
    """Warns once of each failure, with the measured value and the setting to change, on stderr and in `log.txt`.

    It adds two scores to each evaluation: `diversity`, the median distance (in pixels) of a generated image to the
    nearest other one, relative to that of as many real images, about 1; and `near_copies`, the share of the generated
    images that are closer to a training image than 99 % of the validation images are, about 0.01. A score that cannot
    be measured is None.
    """

    provided_scores = ("diversity", "near_copies")

    def __init__(self) -> None:
        self._warned: list[str] = []
        self._counts = {"collapsed": 0, "wins": 0, "limit": 0}  # evaluations or steps in a row
        self._real_spread: float | None = None
        self._detector: MemorizationDetector | None = None
        self._copies = False  # found by the last evaluation

    def on_start(self, run: Run) -> None:
        train = load_split(run.config.data, "train")
        self._num_train = len(train)
        self._labels = subsample(train.labels, _IMAGES)
        self._real_spread = _median_nearest_distance(subsample(train.images, _IMAGES))
        if self._num_train <= _FEW:
            self._detector = MemorizationDetector(train, load_split(run.config.data, "val"))

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        accuracy = stats["discriminator_accuracy"]
        # with an energy distance the generator learns from features, whatever the discriminator says
        wins = accuracy >= _WINS and "energy_distance" not in stats
        if self._lasts("wins", wins, run.config.log.every, _LONG):
            found = f"the discriminator ranks {accuracy:.1%} of the pairs of a real and a generated image right"
            self._warn(run, "wins", f"{found}, for {_LONG:,} steps, so that the generator learns nothing from it")
        probability = stats.get("augment_probability", 0.0)
        if self._lasts("limit", probability > 0.99 * MAX_PROBABILITY, run.config.log.every, _LONG):
            found = f"augmentation is at its limit, a probability of {MAX_PROBABILITY}, for {_LONG:,} steps"
            overfitting = f"the discriminator overfits all the same ({stats['overfitting']:.2f} of 1)"
            self._warn(run, "limit", f"{found}, and {overfitting}")

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        z = torch.randn(len(self._labels), source.latent_dim, generator=torch.Generator().manual_seed(_SEED))
        images = premultiply(source.generate(z, self._labels))
        spread = _median_nearest_distance(images)
        diversity = spread / self._real_spread if spread is not None and self._real_spread else None
        copies = self._detector.check(images) if self._detector else {"share_closer": None, "flagged": None}
        if split == "val":
            self._copies = bool(copies["flagged"])
        return {"diversity": diversity, "near_copies": copies["share_closer"]}

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        diversity, copies = scores["diversity"], scores["near_copies"]
        collapsed = diversity is not None and diversity < _COLLAPSED and run.images >= _EARLY
        if self._lasts("collapsed", collapsed, 1, _COLLAPSED_EVALUATIONS):
            found = f"the generated images are nearly alike: their diversity is {diversity:.2f} of that of real images"
            self._warn(run, "collapsed", f"{found}, expected more than {_COLLAPSED}")
        if self._copies:
            found = f"{copies:.1%} of the generated images are closer to a training image than 99% of the held-out ones"
            self._warn(run, "copies", f"{found}, expected about 1%: the generator copies")

    def state_dict(self) -> dict[str, Any]:
        return {"warned": list(self._warned), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._warned, self._counts = list(state["warned"]), dict(state["counts"])

    def _lasts(self, name: str, found: bool, amount: int, limit: int) -> bool:
        """Counts how long a finding has lasted; returns whether it has reached the limit."""
        self._counts[name] = self._counts[name] + amount if found else 0
        return self._counts[name] >= limit

    def _warn(self, run: Run, name: str, found: str) -> None:
        """Warns with the remedy, unless this run has given this warning before."""
        if name in self._warned:
            return
        self._warned.append(name)
        text = f"step {run.step}: {found}. {self._remedy(run, name)}"
        append_text(run, f"warning: {text}")
        _log.warning("%s", text)

    def _remedy(self, run: Run, name: str) -> str:
        augment, loss = run.config.augment, run.config.loss
        earlier = "Use `best`, or an earlier checkpoint"
        if self._num_train <= _FEW and augment.probability == 0:
            remedy = f"With {self._num_train:,} training images, set augment.probability=adaptive"
        elif name in ("copies", "limit"):
            remedy = "Add images, or set train.duration to less"
        elif run.config.model.discriminator == "projected":
            weight = ENERGY_DISTANCE if loss.energy_distance == "auto" else loss.energy_distance
            remedy = f"Set loss.energy_distance higher than {weight:g}"
        else:
            remedy = f"Set loss.r1 and loss.r2 higher than {max(loss.r1, loss.r2)}, or optimizer.lr_discriminator lower"
        return f"{remedy} (docs/few-images.md). {earlier}"


def _median_nearest_distance(images: Tensor) -> float | None:
    """Median Euclidean distance of uint8 images [N, C, H, W] to the nearest other one; None if there is no other."""
    if len(images) < 2:
        return None
    pixels = images.flatten(1).float()
    return torch.cdist(pixels, pixels).fill_diagonal_(torch.inf).min(dim=1).values.median().item()
