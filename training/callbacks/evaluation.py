"""The callback Evaluate: schedules evaluations and scores the EMA generator against real images."""

import logging
from collections.abc import Mapping
from typing import Any

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import EvaluationSettings
from ganctl.training.data.base import Split
from ganctl.training.data.datasets import load_split
from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.distributed.ranks import preserve_random_states
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator, check_floor
from ganctl.training.evaluation.scorer import Scorer, load_scorer
from ganctl.training.images.source import Source
from ganctl.training.readers.tree import SPLITS

_log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Requests an evaluation at a fixed interval, and returns the scores of `training.evaluation.evaluator`.

    The first evaluation loads the scorer. For new data that fits a classifier, which takes half a minute or more: a run
    starts without it. `run.timer` does not count this time, so that a time limit leaves as much for training.
    """

    def __init__(self, settings: EvaluationSettings | None = None, *, conditional: bool = True) -> None:
        """Sets the interval and the sizes of evaluations.

        Args:
            settings: the settings `evaluation.…`.
            conditional: False if the generator has no labels, so that there is no `label_accuracy`.
        """
        self._settings = settings or EvaluationSettings()
        self._every = ResolvedDuration(self._settings.every)
        self._evaluator: Evaluator | None = None  # None before the first evaluation
        distances = ("fd", "fd_floor", "fd_ratio", "kid")
        self.provided_scores = (*distances, "label_accuracy") if conditional else distances

    def on_start(self, run: Run) -> None:
        self._every.resolve(run.epoch_images)
        for split in SPLITS:  # damaged data fail before the run does
            load_split(run.config.data, split)
        check_floor(run.config.data, "val", self._settings.num_images)
        self._evaluator = None

    def on_step(self, run: Run) -> None:
        self._every.update(run.timer)
        if self._every.crossed(run.images, run.batch_size):
            run.request_evaluation()

    def on_measure(self, run: Run, source: Source, split: Split) -> Mapping[str, Any]:
        evaluator = self._evaluator or self._load_evaluator(run)
        if split == "val":
            return evaluator.score(source, full=False)
        return self._evaluator_of(run, split, self._settings.test_images, evaluator.scorer).score(source)

    def _load_evaluator(self, run: Run) -> Evaluator:
        """Loads the scorer and scores the real images, once for all evaluations; the random state is kept."""
        with run.timer.exclude(), preserve_random_states(run.device):
            scorer = load_scorer(run.config.data, device=run.device, announce=_log.warning)
            self._evaluator = self._evaluator_of(run, "val", self._settings.num_images, scorer)
        if self._evaluator.no_summary:
            _log.warning("no summary on these images: %s", self._evaluator.no_summary)
        return self._evaluator

    def _evaluator_of(self, run: Run, split: Split, num_images: int, scorer: Scorer) -> Evaluator:
        return Evaluator(run.config.data, split, num_images=num_images, scorer=scorer, cache=TensorCache(_log.warning))

    def state_dict(self) -> dict[str, Any]:
        return {"every": self._every.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._every.load_state_dict(state["every"])
