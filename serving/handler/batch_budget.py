"""Limit on the work and on the reply bytes of one batch."""


class BatchBudget:
    """Remaining budget of a batch; a request that does not fit is refused, and a smaller one after it may still fit.

    TorchServe kills a worker, with all requests of its batch, when the batch takes longer than `responseTimeout`. The
    time that TorchServe needs to read a reply grows with the square of its length.
    """

    def __init__(self, budget: float) -> None:
        self._left = budget

    def try_reserve(self, cost: float) -> bool:
        """Reserve `cost` if it fits into the remaining budget. Returns whether it fits."""
        fits = cost <= self._left
        self._left -= cost if fits else 0
        return fits
