"""Batches: no image twice in an epoch, a new order in each epoch, equal for loaders, ranks and resumed runs."""

import multiprocessing
import os
import signal
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.loader import Batches
from ganctl.training.loop.session import Session
from tests.conftest import SMALL
from tests.unit.training.conftest import RegisterData
from tests.waiting import PATIENCE

CPU = torch.device("cpu")
SIZE, BATCH = 50, 8
IMAGES = torch.arange(SIZE, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
DATA = ImageSet(IMAGES, torch.arange(SIZE) % 10, tuple("0123456789"))


def batches(data: ImageSet = DATA, *, batch_size: int = BATCH, seed: int = 1, **settings: Any) -> Batches:
    return Batches(data, batch_size=batch_size, seed=seed, device=CPU, **{"on_device": True, "workers": 0, **settings})


def numbers(source: Batches, steps: range) -> list[list[int]]:
    return [source.at(step)[0][:, 0, 0, 0].tolist() for step in steps]


def test_an_epoch_repeats_no_image_and_each_epoch_has_another_order() -> None:
    source = batches()
    assert source.per_epoch == SIZE // BATCH == 6
    first, second = ([*chain(*numbers(source, range(start, start + 6)))] for start in (0, 6))
    assert len(set(first)) == len(set(second)) == 48
    assert first != second


def test_labels_belong_to_their_images() -> None:
    images, labels = batches().at(3)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert (images[:, 0, 0, 0] % 10).tolist() == labels.tolist()


def test_seeds_that_differ_by_one_share_no_epoch() -> None:
    epochs = [numbers(batches(seed=seed), range(e, e + 6)) for seed in (1, 2) for e in (0, 6, 12)]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_batch_is_divided_among_the_ranks(ranks: int) -> None:
    shares = [batches(rank=rank, ranks=ranks).at(9)[0][:, 0, 0, 0].tolist() for rank in range(ranks)]
    assert [*chain(*shares)] == numbers(batches(), range(9, 10))[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_batches_as_images_on_the_device_from_any_step(workers: int) -> None:
    loader = batches(on_device=False, workers=workers, rank=1, ranks=2)
    assert (loader.on_device, loader.device_bytes) == (False, 0)
    on_device = batches(rank=1, ranks=2)
    state = torch.get_rng_state()
    for steps in (range(4, 9), range(9, 11), range(2)):  # forward, forward, and back, as after a resume
        assert numbers(loader, steps) == numbers(on_device, steps)
    assert torch.equal(torch.get_rng_state(), state), "the loader drew from the random numbers of the training"
    loader.close()


def test_images_are_kept_on_the_device_if_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches(on_device="auto").on_device
    from ganctl.training.data.loader import fits_on_device

    for free, fits in ((IMAGES.nbytes * 3, True), (IMAGES.nbytes, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        assert fits_on_device(DATA, torch.device("cuda")) is fits


def test_loader_processes_survive_signals_to_the_process_group() -> None:
    source, on_device = batches(on_device=False, workers=2), batches()
    assert numbers(source, range(4)) == numbers(on_device, range(4))  # both worker processes have started
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert numbers(source, range(4, 30)) == numbers(on_device, range(4, 30))
    source.close()
    for worker in workers:
        worker.join(timeout=PATIENCE)
        assert not worker.is_alive()


EARLIER = [40, 2, 11, 26, 22, 28, 41, 31, 8, 44, 39, 6, 48, 17, 1, 25]  # images of the first two batches
RARE = (90, 9, 1)  # images of each class
UNEQUAL = ImageSet(
    torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(),
    torch.repeat_interleave(torch.arange(3), torch.tensor(RARE)),
    ("a", "b", "c"),
)


def balanced(balance: float, **settings: Any) -> Batches:
    """Ten batches of ten images an epoch."""
    return batches(UNEQUAL, batch_size=10, balance=balance, **settings)


def count_classes(source: Batches, steps: range) -> list[int]:
    return torch.cat([source.at(step)[1] for step in steps]).bincount(minlength=3).tolist()


@pytest.mark.parametrize(
    ("balance", "shares"),
    [(0, (0.9, 0.09, 0.01)), (0.5, (0.7034, 0.2224, 0.0741)), (1, (1 / 3, 1 / 3, 1 / 3))],  # 0.5: √90 : √9 : √1
)
def test_balance_sets_the_share_of_each_class_in_every_epoch(balance: float, shares: tuple[float, ...]) -> None:
    source = balanced(balance)
    assert source.per_epoch == 10
    for epoch in range(3):
        counts = count_classes(source, range(10 * epoch, 10 * epoch + 10))
        assert sum(counts) == 100
        assert counts == pytest.approx([100 * share for share in shares], abs=1)


def test_without_balance_the_batches_are_those_of_earlier_versions() -> None:
    assert numbers(balanced(0.0), range(12)) == numbers(batches(UNEQUAL, batch_size=10), range(12))
    assert [*chain(*numbers(batches(), range(2)))] == EARLIER


def test_a_balanced_epoch_repeats_an_image_only_after_all_others_of_its_class() -> None:
    source = balanced(1.0)
    epochs = [Counter(chain(*numbers(source, range(start, start + 10)))) for start in (0, 10)]
    for epoch in epochs:
        for start, size in ((0, 90), (90, 9), (99, 1)):
            times = [epoch[image] for image in range(start, start + size)]
            assert max(times) - min(times) <= 1
    assert {image for image in epochs[0] if image < 90} != {image for image in epochs[1] if image < 90}


def test_the_images_of_a_class_are_spread_over_a_balanced_epoch() -> None:
    source = balanced(1.0)
    assert all(min(count_classes(source, range(step, step + 3))) > 0 for step in range(8))


def test_labels_belong_to_their_images_in_balanced_batches() -> None:
    for step in range(10):
        images, labels = balanced(0.7).at(step)
        assert labels.tolist() == [(image >= 90) + (image >= 99) for image in images[:, 0, 0, 0].tolist()]


def test_balanced_batches_are_equal_for_loaders_ranks_and_resumed_runs() -> None:
    expected = numbers(balanced(1.0), range(25))
    assert numbers(balanced(1.0, on_device=False), range(25)) == expected
    assert numbers(balanced(1.0), range(13, 25)) == expected[13:]
    parts = [numbers(balanced(1.0, rank=rank, ranks=2), range(25)) for rank in range(2)]
    assert [[*first, *second] for first, second in zip(*parts, strict=True)] == expected


@pytest.mark.parametrize("class_names", [("a", "b", "c", "without images"), ()])
def test_balance_works_with_a_class_without_images_and_without_labels(class_names: tuple[str, ...]) -> None:
    labels = UNEQUAL.labels if class_names else torch.zeros_like(UNEQUAL.labels)
    source = batches(ImageSet(UNEQUAL.images, labels, class_names), batch_size=10, balance=1.0)
    images = [*chain(*numbers(source, range(10)))]
    assert len(images) == 100
    assert (len(set(images)) == 100) == (not class_names)


def test_a_setting_balances_the_batches_of_a_run(register_data: RegisterData, tmp_path: Path) -> None:
    def load(settings: DataSettings, split: Split) -> ImageSet:
        return ImageSet(torch.zeros(100, 1, 28, 28, dtype=torch.uint8), UNEQUAL.labels, UNEQUAL.class_names)

    register_data("unequal", load)
    for balance, expected in ((0, [90, 9, 1]), (1, [33, 34, 33])):
        settings = ("data.source=unequal", f"data.balance={balance}", "train.batch_size=10")
        trainer = Session(assignments=[*SMALL, *settings], run_dir=tmp_path / f"run-{balance}").build(max_steps=1)
        assert count_classes(trainer.parts.batches, range(10)) == expected
