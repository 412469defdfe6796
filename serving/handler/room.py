"""How much a batch may ask for: one worker answers it in one piece, and within a time."""


class Room:
    """What is left of a batch. What does not fit is refused; something smaller behind it may still fit.

    TorchServe ends a worker that keeps a batch for longer than `responseTimeout`, and all its requests with it; and the
    time in which it reads a worker's reply grows with the square of its length.
    """

    def __init__(self, size: float) -> None:
        self._left = size

    def takes(self, share: float) -> bool:
        fits = share <= self._left
        self._left -= share if fits else 0
        return fits
