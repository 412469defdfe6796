"""The comparison of fine-tuning with training from nothing: its few images, and its table."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.fine_tuning import prepare, table
from ganctl.benchmarks.subsets import choose
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from tests.any_images import COLORS, disks, save_folder


def test_few_images_are_spread_evenly_over_the_classes_and_always_the_same() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 3)
    chosen = choose(labels, 13)
    assert torch.equal(labels[chosen].bincount(), torch.tensor([5, 5, 3]))
    assert torch.equal(chosen, choose(labels, 13))
    assert len(chosen.unique()) == 13


def test_the_file_of_few_images_holds_images_of_the_target_with_its_classes(tmp_path: Path) -> None:
    target = DataSettings(source=str(save_folder(tmp_path / "disks", disks(60, 20), labeled=True)), num_workers=0)
    path, scored_on = prepare(target, tmp_path / "out", images=None, per_class=2)
    assert scored_on == target.source
    few, whole = (load_split(DataSettings(source=str(file), num_workers=0), "train") for file in (path, target.source))
    assert few.class_names == whole.class_names
    assert torch.equal(few.labels.bincount(), torch.tensor([2] * len(COLORS)))
    distances = (few.images[:, None].int() - whole.images[None].int()).abs().amax(dim=(2, 3, 4))
    assert distances.amin(dim=1).max() <= 2  # rounded twice: divided by alpha, and multiplied again


def test_more_images_than_there_are_is_an_error_that_names_both_numbers(tmp_path: Path) -> None:
    target = DataSettings(source=str(save_folder(tmp_path / "disks", disks(60, 20), labeled=True)), num_workers=0)
    with pytest.raises(BenchError, match=r"--images: found 1000 of \d+ training images"):
        prepare(target, tmp_path / "out", images=1000, per_class=None)
    with pytest.raises(BenchError, match=r"--per-class: found 3000 of \d+ training images"):
        prepare(target, tmp_path / "out", images=None, per_class=1000)
    assert not (tmp_path / "out").exists(), "a corrected command may use the same name"
    with pytest.raises(BenchError, match=r"--out: found .*, expected a new folder"):
        prepare(target, tmp_path, images=10, per_class=None)


def test_the_table_has_the_mean_over_the_seeds_of_both_ways_and_no_number_for_scores_without_meaning() -> None:
    runs = [
        {"start": start, "images": 1000 * seed, "scores": {"fd_ratio": ratio + seed, "recall": None}}
        for start, ratio in (("from nothing", 10), ("fine-tuned", 2))
        for seed in (1, 2)
    ]
    lines = table(runs)
    assert lines[2].startswith("| from nothing | 2 | 1,500 | 11.500 | – |")
    assert lines[3].startswith("| fine-tuned | 2 | 1,500 | 3.500 | – |")
    assert np.unique([line.count("|") for line in lines]).size == 1
