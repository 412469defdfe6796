"""The points that `ganctl bench growth` measures: a common base, and one size at a time that differs from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ganctl.benchmarks.errors import BenchUsageError

AXES: dict[str, tuple[int, ...]] = {
    "steps": (100, 300, 1000, 3000),
    "images": (1000, 10_000, 100_000, 1_000_000),
    "size": (16, 32, 64, 128),
    "classes": (2, 10, 100, 1000),
    "ranks": (1, 2),
    "batch": (8, 32, 128),
    "channels": (8, 16, 32),
    "latent": (32, 128, 512),
}
DESCRIPTIONS = {
    "steps": "length of the run in steps, with an evaluation and a checkpoint every 500",
    "images": "images of the data set; a tenth each is held out for val and test",
    "size": "side of the images in pixels",
    "classes": "classes of the data set",
    "ranks": "ranks on this machine, which share the batch and the cores",
    "batch": "images per step",
    "channels": "`model.base_channels`",
    "latent": "`model.latent_dim`",
}


@dataclass(frozen=True)
class Point:
    """The sizes of one training."""

    steps: int = 100
    images: int = 10_000
    size: int = 32
    classes: int = 10
    ranks: int = 1
    batch: int = 32
    channels: int = 8
    latent: int = 32

    @property
    def data(self) -> tuple[int, int, int]:
        """Images, size and classes: points with the same ones share a data set."""
        return self.images, self.size, self.classes

    def describe(self) -> str:
        """Names the sizes that differ from the base; "base" if none does."""
        base = asdict(BASE)
        return ", ".join(f"{name} {value:,}" for name, value in asdict(self).items() if value != base[name]) or "base"


BASE = Point()


def points(axis: str, *, largest: int | None = None) -> list[Point]:
    """Returns the points of an axis, from small to large; `largest` leaves out larger values."""
    return [replace(BASE, **{axis: value}) for value in AXES[axis] if largest is None or value <= largest]


def choose_axes(names: Sequence[str]) -> list[str]:
    """Returns the axes with these names, or all without names.

    Raises:
        BenchUsageError: an axis does not exist.
    """
    if unknown := [name for name in names if name not in AXES]:
        raise BenchUsageError(f"--only: found {unknown[0]}, expected one of {', '.join(AXES)}")
    return [name for name in AXES if not names or name in names]
