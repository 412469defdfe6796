"""A callback that fails in the middle of a run."""

from ganctl.training.callbacks.base import Callback, Run


class FailOnce(Callback):
    """Raises a RuntimeError after a step, once."""

    def __init__(self, step: int) -> None:
        self._step, self._failed = step, False

    def on_step(self, run: Run) -> None:
        if run.step == self._step and not self._failed:
            self._failed = True
            raise RuntimeError(f"fails after step {run.step}")
