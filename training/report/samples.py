"""Images of a run's best checkpoint, and the training images nearest to some of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganctl.training.checkpoint.format import SUFFIX, read_checkpoint
from ganctl.training.checkpoint.run_dir import CHECKPOINTS
from ganctl.training.config.schema import NAMED_DATA_SETS
from ganctl.training.data.base import ImageSet, premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.data.named import is_present
from ganctl.training.errors import DataError, TrainingError
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.neighbors import MemorizationDetector, find_nearest
from ganctl.training.evaluation.reference_stats import subsample
from ganctl.training.images.pictures import straight, tile
from ganctl.training.sampling.inspection import OpenedSource, open_checkpoint
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest
from ganctl.training.sampling.samplers import sample_images

SEED = 0  # of `ganctl sample`, which draws the same images
COMPARED = 256  # generated images that are compared with the training images
_COMPARED_SEED = 11
_MAX_CLASS_COLUMNS = 16
_MAX_IMAGES, _MIN_IMAGES, _MAX_PIXELS = 100, 10, 400_000  # of the grid of samples
_SHOWN = 6  # pairs: the first ones, and the nearest ones

Pixels = NDArray[np.uint8]  # [H, W, C]


@dataclass(frozen=True)
class Samples:
    """A grid of uncurated images, and how to draw them again."""

    grid: Pixels
    count: int
    columns: tuple[str, ...]  # the class of each column; empty if the classes are mixed, or if there are none
    flags: str  # of `ganctl sample`


@dataclass(frozen=True)
class Pair:
    """A generated image and the training image nearest to it, side by side.

    Attributes:
        picture: the generated image on the left.
        requested, found: their classes; None without labels.
        ratio: distance over the median distance of held-out images to their nearest training image; None without one.
    """

    picture: Pixels
    requested: str | None
    found: str | None
    ratio: float | None


@dataclass(frozen=True)
class Neighbors:
    """The nearest training images of the first of COMPARED generated images, and of those nearest to any.

    Attributes:
        first, nearest: the pairs.
        train_size: number of training images.
        share_closer: share of the generated images that are closer than 99 % of held-out images are; None if unknown.
        flagged: whether that suggests copies.
    """

    first: list[Pair]
    nearest: list[Pair]
    train_size: int
    share_closer: float | None
    flagged: bool


@dataclass(frozen=True)
class BestCheckpoint:
    """Images and scores of the best checkpoint; each absent part has a reason.

    Attributes:
        step: of the checkpoint; None if there is none.
        scores: those stored in it.
        samples, neighbors: the images, or the reason why they are left out.
        class_images: number of training images by class; empty if unknown.
    """

    step: int | None
    scores: dict[str, object]
    samples: Samples | str
    neighbors: Neighbors | str
    class_images: dict[str, int]


def draw_best(run_dir: Path, announce: Callable[[str], None]) -> BestCheckpoint:
    """Draws images of a run's best checkpoint, and compares some of them with the training images.

    Errors of the checkpoint and of the data are reasons in the result: a report shows the rest of the run.

    Args:
        run_dir: the run folder.
        announce: receives progress messages.
    """
    path = run_dir / CHECKPOINTS / f"best{SUFFIX}"
    if not path.exists():
        reason = "the run has no best checkpoint yet"
        return BestCheckpoint(None, {}, reason, reason, {})
    try:
        saved = read_checkpoint(path)
        opened = open_checkpoint(path)
        assert opened.source is not None, "a checkpoint has a generator"
        samples = _draw_samples(opened)
    except TrainingError as error:
        return BestCheckpoint(None, {}, str(error), "the best checkpoint cannot be opened", {})
    try:
        if opened.data_error is not None:
            raise opened.data_error
        train = _load_same_images(opened, saved.state["data"])
        neighbors: Neighbors | str = _compare(opened, train, announce)
        counts = torch.bincount(train.labels, minlength=train.num_classes).tolist()
        class_images = dict(zip(train.class_names, counts, strict=False))  # no names without labels
    except (TrainingError, OSError) as error:
        neighbors, class_images = str(error), {}
    return BestCheckpoint(saved.step, saved.metrics, samples, neighbors, class_images)


def _draw_samples(opened: OpenedSource) -> Samples:
    source = opened.source
    assert source is not None
    z = torch.zeros(1, source.latent_dim)
    height, width = source.generate(z, torch.zeros(1, dtype=torch.int64)).shape[2:]
    count = max(_MIN_IMAGES, min(_MAX_IMAGES, _MAX_PIXELS // (height * width)))
    classes = len(source.class_names) if source.conditional else 0
    if 0 < classes <= _MAX_CLASS_COLUMNS:
        per_class = max(1, count // classes)
        request, flags = SampleRequest(per_class=per_class, seed=SEED), f"--per-class {per_class} --seed {SEED}"
    else:
        request, flags = SampleRequest(count=count, seed=SEED), f"--count {count} --seed {SEED}"
    result = sample_images(request, LocalSampler(source))
    grid = tile(result.images.transpose(0, 3, 1, 2), columns=result.columns)
    return Samples(grid, len(result.images), source.class_names if request.per_class else (), flags)


def _load_same_images(opened: OpenedSource, identity: dict[str, object]) -> ImageSet:
    """Loads the training images.

    Raises:
        DataError: they are not those of the run, or are not on this machine; nothing is downloaded.
        TrainingError, OSError: they cannot be read.
    """
    source = opened.data.source
    if source in NAMED_DATA_SETS and not is_present(source):
        raise DataError(f"data.source = '{source}': the files are not on this machine, and a report downloads nothing")
    train = load_split(opened.data, "train")
    if list(train.shape) != identity.get("shape") or train.digest() != identity.get("digest"):
        raise DataError(f"data.source = '{opened.data.source}': the images there are no longer those of the run")
    return train


def _compare(opened: OpenedSource, train: ImageSet, announce: Callable[[str], None]) -> Neighbors:
    source = opened.source
    assert source is not None
    labels = subsample(train.labels, COMPARED)
    z = torch.randn(len(labels), source.latent_dim, generator=torch.Generator().manual_seed(_COMPARED_SEED))
    fakes = premultiply(source.generate(z, labels))
    detector = MemorizationDetector(train, load_split(opened.data, "test"), TensorCache(announce))
    distances, indices = find_nearest(fakes, train.images)
    verdict = detector.judge(distances)
    usual = float(detector.held_out_distances.median())
    names = train.class_names

    def pair(index: int) -> Pair:
        neighbor = int(indices[index])
        requested = names[int(labels[index])] if names and source.conditional else None
        found = names[int(train.labels[neighbor])] if names else None
        ratio = float(distances[index]) / usual if usual > 0 else None
        return Pair(_side_by_side(fakes[index], train.images[neighbor]), requested, found, ratio)

    nearest = distances.argsort(stable=True)[:_SHOWN].tolist()
    first = range(min(_SHOWN, len(fakes)))
    return Neighbors(
        [*map(pair, first)], [*map(pair, nearest)], len(train), verdict["share_closer"], bool(verdict["flagged"])
    )


def _side_by_side(fake: Tensor, real: Tensor) -> Pixels:
    return straight(tile(torch.stack([fake, real]).numpy(), columns=2))
