"""The preset `auto`: settings that follow from facts about the training images, the device and the duration.

| images | device | duration | recipe |
| --- | --- | --- | --- |
| gray, up to 32 pixels | CPU | up to three minutes | `quick` |
| gray, up to 32 pixels | CPU | longer, or not given | `conv` |
| gray, up to 32 pixels | CUDA | any | `gpu`, with a batch of at most a tenth of the images |
| all others | any | any | `OTHER_IMAGES` |

Every recipe is changed for few images, for images without labels or of one class, and for networks of an earlier run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ganctl.training.config.duration import Duration
from ganctl.training.config.resolve import AUTO, Values, preset_values

OTHER_IMAGES = "residual"  # preset for color, transparency, or more than 32 pixels

_SOURCE = f"preset {AUTO}"
_SMALL = 32  # pixels: the largest side of the images that `quick`, `conv` and `gpu` were chosen on
_SHORT = {"seconds": 180, "images": 200_000}  # about equal on two CPU cores; `conv` needs more
_FEW = 10_000  # training images, below which a discriminator learns them by heart
_GPU_IMAGES = 55_000  # training images on which `gpu` was chosen
_SMALL_BATCH: Values = {"train.batch_size": 64, "optimizer.lr": 2e-3, "train.ema_decay": 0.9995}  # for MNIST


@dataclass(frozen=True)
class Facts:
    """Facts about the images, the device and the duration, from which the preset `auto` follows."""

    images: int  # for training
    size: int  # longer side, in pixels
    channels: int
    classes: int  # 0: the images have no labels
    device: Literal["cpu", "cuda"] = "cpu"
    duration: Duration | None = None  # None: the user gave none
    networks: Mapping[str, Any] = field(default_factory=dict)  # settings `model.…` of the run of --init-from


@dataclass(frozen=True)
class Recommendation:
    """A complete recipe: `section.key` → value; and the reasons, by the setting that each explains."""

    values: Values
    reasons: Mapping[str, str]

    def reasons_in_use(self, sources: Mapping[str, str]) -> tuple[str, ...]:
        """Returns the reasons of the settings whose source is the preset `auto`: no other source has set them."""
        by_auto = {name for name, source in sources.items() if source == _SOURCE}
        in_use = by_auto | {"preset"} if by_auto else by_auto
        return tuple(reason for name, reason in self.reasons.items() if name in in_use)


def recommend(facts: Facts) -> Recommendation:
    """Chooses all settings for these facts. Settings of the data are left out, since the facts depend on them."""
    preset = _choose_preset(facts)
    values = {name: value for name, value in preset_values(preset).items() if not name.startswith("data.")}
    kind = {1: "gray", 3: "color", 4: "transparent"}.get(facts.channels, f"{facts.channels}-channel")
    conditions = [f"{kind} images of {facts.size} pixels", {"cpu": "on a CPU", "cuda": "on CUDA"}[facts.device]]
    conditions += [f"for {facts.duration}"] if facts.duration else []
    reasons = {"preset": f"settings of {preset}: {', '.join(conditions)}"}
    if facts.networks:
        values |= {f"model.{key}": value for key, value in facts.networks.items() if key != "conditional"}
        reasons["model.generator"] = f"model.generator={values['model.generator']}: as in the run of --init-from"
    if facts.classes < 2:
        values["model.conditional"] = False
        found = "the images have only one class" if facts.classes else "the images have no labels"
        reasons["model.conditional"] = f"model.conditional=false: {found}"
    if facts.images < _FEW:
        values["augment.probability"] = "adaptive"
        few = f"{facts.images:,} training images, fewer than {_FEW:,}"
        reasons["augment.probability"] = f"augment.probability=adaptive: {few}"
    limit = min(facts.images, max(64, facts.images // 10)) if preset == "gpu" else facts.images
    if values["train.batch_size"] > limit:
        values["train.batch_size"] = batch_size = 1 << (limit.bit_length() - 1)  # so that ranks divide it
        reasons["train.batch_size"] = f"train.batch_size={batch_size}: there are {facts.images:,} training images"
    if preset == "gpu":
        values |= _gpu_schedule(values["train.batch_size"], facts.images)
    return Recommendation(values, reasons)


def _choose_preset(facts: Facts) -> str:
    """Returns the preset for the images; with networks of an earlier run, one for these networks if there is one."""
    small = "gpu" if facts.device == "cuda" else "quick" if _is_short(facts) else "conv"
    choices = [small, OTHER_IMAGES] if facts.channels == 1 and facts.size <= _SMALL else [OTHER_IMAGES, small]
    generator = facts.networks.get("generator")
    return next((name for name in choices if preset_values(name)["model.generator"] == generator), choices[0])


def _is_short(facts: Facts) -> bool:
    if facts.duration is None:
        return False
    if facts.duration.unit == "seconds":
        return facts.duration.value <= _SHORT["seconds"]
    return facts.duration.images(facts.images) <= _SHORT["images"]


def _gpu_schedule(batch_size: int, images: int) -> Values:
    """Fits the schedule of `gpu` to fewer images and a smaller batch.

    Learning rate and EMA lie between those for a batch of 64 and those of `gpu`, chosen for 4096, by the logarithm of
    the batch. A run sees as many images as of MNIST.
    """
    small, large = _SMALL_BATCH, preset_values("gpu")
    low, high = (math.log(preset["train.batch_size"]) for preset in (small, large))
    share = max(0.0, (math.log(batch_size) - low) / (high - low))

    def between(first: float, last: float) -> float:
        return float(f"{first * (last / first) ** share:.2g}")

    schedule: Values = {
        "optimizer.lr": between(small["optimizer.lr"], large["optimizer.lr"]),
        "train.ema_decay": round(1 - between(1 - small["train.ema_decay"], 1 - large["train.ema_decay"]), 6),
    }
    if images < _GPU_IMAGES:
        for name in ("train.duration", "evaluation.every"):
            schedule[name] = f"{Duration.parse(large[name]).images(_GPU_IMAGES)} images"
    return schedule
