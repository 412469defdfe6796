"""Shuffled batches of a data set: a deterministic function of (seed, epoch, position).

The images are one uint8 tensor in device memory, and a batch is one gather. If they do not fit there, they stay in host
memory, and the worker processes of a DataLoader prefetch the same batches. A resumed run needs only the step number.
"""

import hashlib
import signal
from collections.abc import Iterator
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganctl.training.data.base import ImageSet

_MAX_MEMORY_FRACTION = 0.5  # of a device's free memory that the images may take
_PREFETCH_FACTOR = 4  # batches that each worker prepares in advance

ImagesAndLabels = tuple[Tensor, Tensor]  # images uint8 [B/P, C, H, W] and labels int64 [B/P] on one of P ranks


class Batches:
    """This rank's part of each batch of a split; an incomplete last batch of an epoch is dropped."""

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
        on_device: bool | str = "auto",
        workers: int = 1,
        balance: float = 0.0,
    ) -> None:
        """Places the images.

        Args:
            data: the split.
            batch_size: images per step over all ranks; a multiple of `ranks`, at most `len(data)`.
            seed: seed of the shuffles.
            device: device of the batches.
            rank: index of this rank.
            ranks: number of ranks.
            on_device: keep the images in device memory; "auto": if they fit.
            workers: worker processes of the DataLoader, if the images are not on the device.
            balance: from 0, classes as frequent as in `data`, to 1, all classes equally frequent: a share s of the data
                becomes proportional to s^(1 − balance). Images of rare classes then occur more than once an epoch.
        """
        assert batch_size <= len(data), "the caller checks this"
        assert batch_size % ranks == 0, "the caller checks this"
        self._device, self._workers = device, workers
        self.on_device = fits_on_device(data, device) if on_device == "auto" else bool(on_device)
        self.device_bytes = data.images.nbytes if self.on_device else 0
        memory = device if self.on_device else torch.device("cpu")
        self._shuffled = _ShuffledBatches(
            data, batch_size=batch_size, seed=seed, rank=rank, ranks=ranks, memory=memory, balance=balance
        )
        self.size, self.per_epoch = len(data), self._shuffled.per_epoch
        self._prefetch: tuple[int, Iterator[ImagesAndLabels]] | None = None  # next step of the DataLoader, its iterator

    def at(self, step: int) -> ImagesAndLabels:
        """Returns the batch of step 0, 1, … on the device."""
        return self.gather(*self.batch_ref(step))

    def gather(self, *batch_ref: Tensor) -> ImagesAndLabels:
        """Returns the batch that `batch_ref` refers to."""
        if self.on_device:
            return self._shuffled.gather(*batch_ref)
        images, labels = batch_ref
        return images, labels

    def batch_ref(self, step: int) -> tuple[Tensor, ...]:
        """Returns the input of `gather` for a step, on the device.

        It is the image indices, int64 [B/P], if the images are on the device; else the batch itself.
        """
        if self.on_device:
            return (self._shuffled.indices(step),)
        if self._prefetch is None or self._prefetch[0] != step:
            self._prefetch = (step, self._start_loader(step))
        images, labels = next(self._prefetch[1])
        self._prefetch = (step + 1, self._prefetch[1])
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def close(self) -> None:
        """Stops the worker processes."""
        self._prefetch = None

    def _start_loader(self, step: int) -> Iterator[ImagesAndLabels]:
        return iter(
            DataLoader(
                self._shuffled,
                batch_size=None,
                sampler=range(step, 1 << 62),  # practically endless
                num_workers=self._workers,
                prefetch_factor=_PREFETCH_FACTOR if self._workers else None,
                pin_memory=self._device.type == "cuda",
                generator=torch.Generator(),  # the default would consume random numbers of the training
                worker_init_fn=_ignore_signals,
            )
        )


def _ignore_signals(worker: int) -> None:
    """Ignores signals in a worker process, so that the parent can finish its step and stop the workers.

    Ctrl-C, `timeout`, a closed terminal and schedulers signal the whole process group.
    """
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _ShuffledBatches(Dataset[ImagesAndLabels]):
    """The batches of one rank by step, shuffled anew for each epoch. Worker processes share images in host memory."""

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        ranks: int,
        memory: torch.device,
        balance: float,
    ) -> None:
        self._images, self._labels = data.images.to(memory), data.labels.to(memory)
        self._batch_size, self._seed = batch_size, seed
        self.per_epoch = len(data) // batch_size
        self._rank, self._rank_size = rank, batch_size // ranks
        self._class_members = _members(data) if balance else []
        self._class_images = _balanced_counts([len(members) for members in self._class_members], len(data), balance)
        self._epoch: tuple[int, Tensor] = (-1, torch.empty(0))  # number and permutation of the current epoch

    def indices(self, step: int) -> Tensor:
        """Returns the image indices of a step, int64 [B/P]."""
        epoch, position = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._permutation(epoch))
        start = position * self._batch_size + self._rank * self._rank_size
        return self._epoch[1][start : start + self._rank_size]

    def gather(self, indices: Tensor) -> ImagesAndLabels:
        """Returns the images and labels of these indices."""
        return self._images.index_select(0, indices), self._labels.index_select(0, indices)

    def __getitem__(self, step: int) -> ImagesAndLabels:
        return self.gather(self.indices(step))

    def _permutation(self, epoch: int) -> Tensor:
        # a hash, because seeds that differ by one must not share epochs
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{epoch}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._images), generator=generator)
        if self._class_members:
            chosen = []
            for members, images in zip(self._class_members, self._class_images, strict=True):
                rounds = -(-images // len(members))  # each image once, before any occurs twice
                shuffles = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
                chosen.append(members[torch.cat(shuffles)[:images]])
            order = torch.cat(chosen)[order]
        return order.to(self._images.device)


def _members(data: ImageSet) -> list[Tensor]:
    """Returns the indices of the images of each class that has any, int64."""
    order, counts = data.labels.argsort(stable=True), torch.bincount(data.labels)
    return list(order.split(counts[counts > 0].tolist()))


def _balanced_counts(counts: list[int], total: int, balance: float) -> list[int]:
    """Returns the images of each class in an epoch of `total` images; see `Batches`."""
    shares = [count ** (1 - balance) for count in counts]
    bounds = [0, *(round(total * part / sum(shares)) for part in accumulate(shares))]
    return [end - start for start, end in pairwise(bounds)]


def fits_on_device(data: ImageSet, device: torch.device) -> bool:
    """Returns whether the images take at most half of the free memory of a device."""
    if device.type != "cuda":
        return True  # the images are in host memory already
    free, _ = torch.cuda.mem_get_info(device)
    return data.images.nbytes <= _MAX_MEMORY_FRACTION * free
