"""The callback Evaluate: schedules evaluations and scores the EMA generator against real images."""

import logging
from collections.abc import Mapping
from typing import Any

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import EvaluationSettings
from ganctl.training.data.base import Split
from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.scorer import load_scorer
from ganctl.training.images.source import Source

_log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Requests an evaluation at a fixed interval, and returns the scores of `training.evaluation.evaluator`."""

    def __init__(self, settings: EvaluationSettings | None = None, *, conditional: bool = True) -> None:
        """Sets the interval and the sizes of evaluations.

        Args:
            settings: the settings `evaluation.…`.
            conditional: False if the generator has no labels, so that there is no `label_accuracy`.
        """
        self._settings = settings or EvaluationSettings()
        self._every = ResolvedDuration(self._settings.every)
        distances = ("fd", "fd_floor", "fd_ratio", "kid")
        self.provided_scores = (*distances, "label_accuracy") if conditional else distances

    def on_start(self, run: Run) -> None:
        self._every.resolve(run.epoch_images)
        # at the start: damaged data fail before the run does; the real images are scored once for all evaluations
        self._scorer = load_scorer(run.config.data, device=run.device, announce=_log.warning)
        self._evaluator = self._evaluator_of(run, "val", self._settings.num_images)
        if self._evaluator.no_summary:
            _log.warning("no summary on these images: %s", self._evaluator.no_summary)

    def on_step(self, run: Run) -> None:
        self._every.update(run.timer)
        if self._every.crossed(run.images, run.batch_size):
            run.request_evaluation()

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        if split != "val":
            return self._evaluator_of(run, split, self._settings.test_images).score(source)
        return self._evaluator.score(source, full=False)

    def _evaluator_of(self, run: Run, split: Split, num_images: int) -> Evaluator:
        return Evaluator(
            run.config.data, split, num_images=num_images, scorer=self._scorer, cache=TensorCache(_log.warning)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"every": self._every.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._every.load_state_dict(state["every"])
