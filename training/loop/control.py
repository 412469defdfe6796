"""The open requests of callbacks, and the result of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.distributed.ranks import Ranks


@dataclass
class LoopControl:
    """Requests to stop, evaluate or save: those of this rank's callbacks; after `agree`, those of all ranks."""

    stop: str = ""  # the reason
    evaluate_at_stop: bool = True
    evaluation: bool = False
    checkpoint: bool = False

    def request_stop(self, reason: str, *, evaluate: bool) -> None:
        """Requests a stop. The first reason counts, unless a later one (a signal) needs no evaluation."""
        if not self.stop or (self.evaluate_at_stop and not evaluate):
            self.stop, self.evaluate_at_stop = reason, evaluate

    def agree(self, ranks: Ranks, duration: ResolvedDuration) -> None:
        """Combines the requests of all ranks, so that no rank leaves the loop or waits alone.

        The duration that rank 0 measured, in images, becomes that of every rank.
        """
        if ranks.size == 1:
            return
        requested = [bool(self.stop), self.evaluation, self.checkpoint, duration.images or 0]
        stop, evaluation, checkpoint, images = ranks.all_reduce_max(requested)
        self.evaluation, self.checkpoint, duration.images = bool(evaluation), bool(checkpoint), images or None
        if stop:
            stops = ranks.all_gather_object((self.stop, self.evaluate_at_stop))
            self.stop = ""
            for reason, evaluate in stops:
                if reason:
                    self.request_stop(reason, evaluate=evaluate)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    `metrics` are scores on the split `metrics["split"]`. For a complete run they are those of its best checkpoint on
    the test split; for a run that a limit ended, those of its last evaluation on the validation split. Only rank 0
    has the test scores.
    """

    run_dir: Path
    steps: int
    images: int
    seconds: float
    images_per_second: float
    best: Path | None
    last: Path | None
    metrics: dict[str, Any]
    stop_reason: str
