"""Subsets of data sets as files, and ganctl commands that train and score on them, for comparisons on few images."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.report import JsonObject
from ganctl.processes import ganctl_command
from ganctl.training.data.base import ImageSet, fixed_permutation
from ganctl.training.models.base import to_bytes, to_float
from ganctl.training.readers.tree import Split

# of trainings that are scored afterwards: no evaluation on the way, and a small one at the end
QUIET = (
    "evaluation.every=1000000 epochs", "evaluation.num_images=100", "evaluation.test_images=100",
    "log.tensorboard=false",
)  # fmt: skip


def subset(data: ImageSet, count: int) -> ImageSet:
    """Returns `count` images as `choose` chooses them, with all class names; fewer if there are fewer."""
    indices = choose(data.labels, count)
    return ImageSet(data.images[indices], data.labels[indices], data.class_names)


def training_subset(train: ImageSet, count: int, option: str = "--images") -> ImageSet:
    """Returns `count` training images with at least one of each class.

    Raises:
        BenchError: there are fewer images or more classes; the message names the option.
    """
    if not train.num_classes <= count <= len(train):
        found = f"{count} of {len(train)} training images in {train.num_classes} classes"
        raise BenchError(f"{option}: found {found}, expected one of each class or more, and no more than there are.")
    return subset(train, count)


def make_folder(path: Path) -> None:
    """Makes the folder of `--out`.

    Raises:
        BenchError: it exists.
    """
    if path.exists():
        raise BenchError(f"--out: found {path}, expected a new folder. Name another one, or delete it.")
    path.mkdir(parents=True)


def choose(labels: Tensor, count: int) -> Tensor:
    """Chooses `count` images, equally many of each class as far as possible; returns their indices, int64.

    Args:
        labels: int64 [N].
        count: all are chosen if it is N or more.
    """
    order = fixed_permutation(len(labels))
    rank = torch.empty_like(labels)  # of an image within its class
    for label in labels.unique():
        of_class = order[labels[order] == label]
        rank[of_class] = torch.arange(len(of_class))
    return order[rank[order].argsort(stable=True)[:count]].sort().values


def write_npz(path: Path, splits: Mapping[Split, ImageSet]) -> Path:
    """Writes splits of a data set into one file; colors are no longer multiplied with alpha."""
    arrays: dict[str, np.ndarray] = {}
    for split, data in splits.items():
        arrays[f"{split}_images"] = to_bytes(to_float(data.images)).permute(0, 2, 3, 1).numpy()
        if data.class_names:
            arrays[f"{split}_labels"] = np.array(data.class_names)[data.labels.numpy()]
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes further arrays for `allow_pickle`
    return path


def run(*words: object) -> JsonObject:
    """Runs a ganctl command with --json and returns its result.

    Raises:
        BenchError: it failed; the message is that of the command.
    """
    command = ganctl_command(*map(str, words), "--json")
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        message = done.stderr.strip() or "no message"
        raise BenchError(f"ganctl {' '.join(map(str, words))}: exit code {done.returncode}: {message}")
    result: JsonObject = json.loads(done.stdout)
    return result
