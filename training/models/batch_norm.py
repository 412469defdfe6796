"""Batch normalization without a batch counter, which would cost a kernel per pass and is not read."""

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm1d(nn.BatchNorm1d):
    """PyTorch's BatchNorm1d with a fixed momentum; `num_batches_tracked` is in the state dict but stays unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.momentum is not None, "a cumulative average would need the batch counter"
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
