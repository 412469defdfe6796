"""Batches: no image twice in an epoch, a new order in each epoch, equal for loaders, ranks and resumed runs."""

import multiprocessing
import os
import signal
from itertools import chain

import pytest
import torch

from ganctl.training.data.base import ImageSet
from ganctl.training.data.loader import Batches
from tests.waiting import PATIENCE

CPU = torch.device("cpu")
SIZE, BATCH = 50, 8
IMAGES = torch.arange(SIZE, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
DATA = ImageSet(IMAGES, torch.arange(SIZE) % 10, tuple("0123456789"))


def batches(*, seed: int = 1, rank: int = 0, ranks: int = 1, on_device: bool | str = True, workers: int = 0) -> Batches:
    return Batches(
        DATA, batch_size=BATCH, seed=seed, device=CPU, rank=rank, ranks=ranks, on_device=on_device, workers=workers
    )


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
    from ganctl.training.data.loader import _fits_on_device

    for free, fits in ((IMAGES.nbytes * 3, True), (IMAGES.nbytes, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        assert _fits_on_device(DATA, torch.device("cuda")) is fits


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
