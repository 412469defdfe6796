"""Batches of a data set that lives where the compute is: one uint8 tensor, one gather per batch, no loader.

The images of a step follow from (seed, epoch, position) alone; the step's number is all that a resume needs.
"""

import hashlib

import torch
from torch import Tensor

from training.data import ImageSet


class Batches:
    """The batches of a split, shuffled anew for each epoch; an incomplete last batch of an epoch is left out."""

    def __init__(self, data: ImageSet, *, batch_size: int, seed: int, device: torch.device, rank: int = 0, ranks: int = 1) -> None:
        assert batch_size <= len(data), "checked by the trainer"
        self._images, self._labels = data.images.to(device), data.labels.to(device)
        self._batch_size, self._seed = batch_size, seed
        self._share = slice(rank * (batch_size // ranks), (rank + 1) * (batch_size // ranks))
        self.resident_bytes = self._images.nbytes
        self.size, self.per_epoch = len(data), len(data) // batch_size
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, C, H, W] and labels int64 [B] of step 0, 1, …"""
        epoch, position = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffled(epoch))
        index = self._order[1][position * self._batch_size : (position + 1) * self._batch_size][self._share]
        return self._images.index_select(0, index), self._labels.index_select(0, index)

    def _shuffled(self, epoch: int) -> Tensor:
        # hashed: seeds that differ by one must not share epochs
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}/{epoch}".encode()).digest()[:7], "big")
        order = torch.randperm(len(self._images), generator=torch.Generator().manual_seed(seed))
        return order.to(self._images.device)
