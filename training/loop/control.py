"""What callbacks have asked the loop for, and what ended a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.distributed.ranks import Ranks


@dataclass
class LoopControl:
    """Open requests of this rank's callbacks; after `agree`, those of all ranks."""

    stop: str = ""  # the reason
    evaluate_at_stop: bool = True
    evaluation: bool = False
    checkpoint: bool = False

    def request_stop(self, reason: str, *, evaluate: bool) -> None:
        """The first reason counts; one that cannot wait for an evaluation (a signal) outweighs those that can."""
        if not self.stop or (self.evaluate_at_stop and not evaluate):
            self.stop, self.evaluate_at_stop = reason, evaluate

    def agree(self, ranks: Ranks, duration: ResolvedDuration) -> None:
        """Makes every rank want what any rank wants: none may leave the loop, or wait, alone. The first rank's
        measurement of the duration becomes everybody's."""
        if ranks.size == 1:
            return
        wanted = [bool(self.stop), self.evaluation, self.checkpoint, duration.images or 0]
        stop, evaluation, checkpoint, images = ranks.all_reduce_max(wanted)
        self.evaluation, self.checkpoint, duration.images = bool(evaluation), bool(checkpoint), images or None
        if stop:
            asked = ranks.gather((self.stop, self.evaluate_at_stop))
            self.stop, self.evaluate_at_stop = "", True
            for reason, evaluate in asked:
                if reason:
                    self.request_stop(reason, evaluate=evaluate)


@dataclass(frozen=True)
class Result:
    """How a run ended. `metrics` are the scores on the split that `metrics["split"]` names: of the best checkpoint on
    the test set where the run is complete, of the last evaluation on the validation split where a limit stopped it.
    Only the first rank has the files and the test scores."""

    run_dir: Path
    steps: int
    images: int
    seconds: float
    images_per_second: float
    best: Path | None
    last: Path | None
    metrics: dict[str, Any]
    stop_reason: str
