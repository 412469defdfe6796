"""Batches of a data set, shuffled anew for each epoch: an exact function of (seed, epoch, position).

The images live where the compute is, as one uint8 tensor, and a batch is one gather. Where they do not fit there, they
stay in the host's memory, and a DataLoader's processes gather ahead of the steps; the batches are the same. The step's
number is all that a resume needs.
"""

import hashlib
import signal
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganctl.training.data.base import ImageSet

_SHARE_OF_FREE = 0.5  # of a device's memory that the images may take
_AHEAD = 4  # batches that each process of a loader keeps ready

Pair = tuple[Tensor, Tensor]


class Batches:
    """This rank's share of each batch of a split; an incomplete last batch of an epoch is left out."""

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
        resident: bool | str = "auto",
        workers: int = 1,
    ) -> None:
        """`batch_size` counts over all ranks; `workers` is the number of a loader's processes, where one is needed."""
        assert batch_size <= len(data), "checked by whoever assembles a run"
        assert batch_size % ranks == 0, "likewise"
        self._device, self._workers = device, workers
        self.resident = _fits(data, device) if resident == "auto" else bool(resident)
        self.resident_bytes = data.images.nbytes if self.resident else 0
        place = device if self.resident else torch.device("cpu")
        self._order = _Order(len(data), batch_size=batch_size, seed=seed, rank=rank, ranks=ranks, device=place)
        self.size, self.per_epoch = len(data), self._order.per_epoch
        self._images, self._labels = data.images.to(place), data.labels.to(place)
        self._ahead: tuple[int, Iterator[Pair]] | None = None  # the loader, and the step that it gives next

    def at(self, step: int) -> Pair:
        """Images uint8 [B/P, C, H, W] and labels int64 [B/P] of step 0, 1, … on the device."""
        return self.gather(*self.batch_ref(step))

    def gather(self, *named: Tensor) -> Pair:
        """Images and labels of what `named` has given."""
        if len(named) == 1:
            return self._images.index_select(0, named[0]), self._labels.index_select(0, named[0])
        images, labels = named
        return images, labels

    def batch_ref(self, step: int) -> tuple[Tensor, ...]:
        """What tells `gather` the batch of a step, on the device: numbers of images where these are resident, else the
        images and labels themselves."""
        if self.resident:
            return (self._order.at(step),)
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = (step, self._loader(step))
        images, labels = next(self._ahead[1])
        self._ahead = (step + 1, self._ahead[1])
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def close(self) -> None:
        """Ends the loader's processes."""
        self._ahead = None

    def _loader(self, step: int) -> Iterator[Pair]:
        dataset = _Steps(self._images, self._labels, self._order)
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=range(step, 1 << 62),  # without an end
                num_workers=self._workers,
                prefetch_factor=_AHEAD if self._workers else None,
                pin_memory=self._device.type == "cuda",
                generator=torch.Generator(),  # or it would use up the random numbers of the training
                worker_init_fn=leave_signals_to_the_parent,
            )
        )


def leave_signals_to_the_parent(worker: int) -> None:
    """A signal to the whole process group (Ctrl-C, `timeout`, a closed terminal, a scheduler) must not end a loader's
    process: whoever reads from it finishes the step and closes it."""
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _Order:
    """Which images a step sees."""

    def __init__(self, size: int, *, batch_size: int, seed: int, rank: int, ranks: int, device: torch.device) -> None:
        self._size, self._batch_size, self._seed, self._device = size, batch_size, seed, device
        self.per_epoch = size // batch_size
        share = batch_size // ranks
        self._share = slice(rank * share, (rank + 1) * share)
        self._epoch: tuple[int, Tensor] = (-1, torch.empty(0))

    def at(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][position * self._batch_size : (position + 1) * self._batch_size][self._share]

    def _shuffled(self, epoch: int) -> Tensor:
        # hashed: seeds that differ by one must not share epochs
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{epoch}".encode()).digest()[:7], "big")
        return torch.randperm(self._size, generator=torch.Generator().manual_seed(seed)).to(self._device)


class _Steps(Dataset[Pair]):
    """Step i as a batch, gathered in the host's memory (which a loader's processes share)."""

    def __init__(self, images: Tensor, labels: Tensor, order: _Order) -> None:
        self._images, self._labels, self._order = images, labels, order

    def __getitem__(self, step: int) -> Pair:
        index = self._order.at(step)
        return self._images.index_select(0, index), self._labels.index_select(0, index)


def _fits(data: ImageSet, device: torch.device) -> bool:
    if device.type != "cuda":
        return True  # the host's memory is where they are
    free, _ = torch.cuda.mem_get_info(device)
    return data.images.nbytes <= _SHARE_OF_FREE * free
