"""The callback Checkpoint: saves between evaluations, names checkpoint files, and deletes old ones."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from ganctl.files import is_temporary, link_file
from ganctl.training.callbacks.base import FINISHED, Callback, Run
from ganctl.training.callbacks.monitor import Monitor
from ganctl.training.checkpoint.format import SUFFIX, read_checkpoint, write_checkpoint
from ganctl.training.checkpoint.run_dir import CHECKPOINTS
from ganctl.training.config.schema import CheckpointSettings
from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.errors import CheckpointError
from ganctl.training.evaluation.measure import MEASURE

_NON_SCORES = ("step", "images")  # fields of a file name that are not scores
_log = logging.getLogger(__name__)


class Checkpoint(Callback):
    """Keeps `last`, `best`, the top k by score, and the two latest saves; deletes the others.

    The state is saved at every evaluation. `ranking` (best first: score, step, name) and `recent` (step, name) are part
    of the training state, so that a resumed run keeps and deletes the same files. If a checkpoint has several names,
    they are hard links to one file, or copies where the file system has no hard links.
    """

    def __init__(self, settings: CheckpointSettings | None = None) -> None:
        """Takes the settings `checkpoint.…`."""
        self._settings = settings = settings or CheckpointSettings()
        self._monitor = Monitor(settings.monitor, settings.mode)
        fields = [name for _, name, _, _ in Formatter().parse(settings.filename) if name]
        scores = [settings.monitor, *(name for name in fields if name not in _NON_SCORES)]
        self.required_scores = tuple(dict.fromkeys(scores))
        self._file_pattern = _name_pattern(settings.filename)
        self._unlisted: set[str] = set()  # names that have left the lists and are not deleted yet
        self._folder = Path()  # `on_start` sets it, on rank 0
        self.every = ResolvedDuration(settings.every) if settings.every else None
        self.ranking: list[tuple[float | None, int, str]] = []
        self.recent: list[tuple[int, str]] = []

    @property
    def last(self) -> Path:
        return self._folder / f"last{SUFFIX}"

    @property
    def best(self) -> Path:
        return self._folder / f"best{SUFFIX}"

    def on_start(self, run: Run) -> None:
        """Removes absent files from the lists, and unlisted files from the folder.

        Files are absent if the run resumes in a new folder. A stop, or a process that was killed, may have left others.
        """
        self._folder = run.run_dir / CHECKPOINTS
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.every is not None:
            self.every.resolve(run.epoch_images)
        self.ranking = [entry for entry in self.ranking if (self._folder / entry[2]).exists()]
        self.recent = [entry for entry in self.recent if (self._folder / entry[1]).exists()]
        if self.ranking:
            link_file(self._folder / self.ranking[0][2], self.best)
        for path in self._folder.iterdir():
            if is_temporary(path.name):  # left by a process that was killed in a save
                path.unlink()
        self._delete_unlisted()

    def on_step(self, run: Run) -> None:
        if self.every is not None:
            self.every.update(run.timer)
            if self.every.crossed(run.images, run.batch_size):
                run.request_checkpoint()

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        if reason in FINISHED and not self._settings.save_last and self.best.exists():
            self.last.unlink()
            self._unlisted |= self._listed
            self.recent = []
            self._delete_unlisted()

    def register(self, step: int, images: int, scores: Mapping[str, Any], *, fresh: bool) -> bool:
        """Adds the state that will be written next to the lists.

        Args:
            step, images: of the state.
            scores: of the last evaluation.
            fresh: whether the scores are those of this state, so that it is ranked.

        Returns:
            True if it is the best one.
        """
        name, listed = self._name(step, images, scores), self._listed
        if fresh:
            entries = [*self.ranking, (self._monitor.score(scores), step, name)]
            self.ranking = sorted(entries, key=lambda entry: self._rank_key(*entry[:2]))[: self._settings.save_top_k]
        self.recent = [*self.recent[-1:], (step, name)]
        self._unlisted |= listed
        return fresh and self.ranking[0][2] == name

    def beats(self, scores: Mapping[str, Any]) -> bool:
        """Returns whether the scores of the newest state are better than all ranked ones."""
        key = self._rank_key(self._monitor.score(scores), math.inf)
        return not self.ranking or key < self._rank_key(*self.ranking[0][:2])

    def _rank_key(self, score: float | None, step: float) -> tuple[float, float]:
        """Returns the sort key of the ranking, best first.

        Among scores beyond `monitor_threshold` the later one is better; among other equal scores the earlier one.
        Checkpoints without a score come last, the latest first.
        """
        if score is None:
            return math.inf, -step
        sign, threshold = self._monitor.sign, self._settings.monitor_threshold
        cost = sign * score
        return (-math.inf, -step) if threshold is not None and cost <= sign * threshold else (cost, step)

    def write(self, state: Mapping[str, Any], *, best: bool, listed: bool = True) -> Path:
        """Writes the state that was registered last, links `last` to it, and deletes unlisted files.

        Args:
            state: the training state.
            best: whether to link `best` to it as well.
            listed: False for a state that was not registered, which is written as `last` alone.

        Returns:
            The path of `last`.

        Raises:
            OSError: writing failed, such as on a full disk; `last`, `best` and the others are unchanged.
        """
        path = self._folder / self.recent[-1][1] if listed else self.last
        write_checkpoint(path, state)
        if listed:
            link_file(path, self.last)
        if best:
            link_file(path, self.best)
        self._delete_unlisted()
        return self.last

    def newest_intact_best(self) -> Path:
        """Returns `best`; if that is damaged, the best intact checkpoint, which becomes `best`.

        Raises:
            CheckpointError: all ranked checkpoints are damaged.
        """
        for path in (self.best, *(self._folder / name for _, _, name in self.ranking)):
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                last_error = error
                _log.warning("skipped: %s", error)
            else:
                if path != self.best:
                    link_file(path, self.best)
                return self.best
        raise last_error

    def state_dict(self) -> dict[str, Any]:
        every = self.every.state_dict() if self.every is not None else None
        return {"ranking": self.ranking, "recent": self.recent, "every": every, "measure": MEASURE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        comparable = state.get("measure") == MEASURE
        if state["ranking"] and not comparable:
            _log.warning("the scores of earlier checkpoints are of another measure: they rank below new ones")
        self.ranking = [(score if comparable else None, step, name) for score, step, name in state["ranking"]]
        self.recent = [(step, name) for step, name in state["recent"]]
        if self.every is not None:
            self.every.load_state_dict(state["every"])

    def _name(self, step: int, images: int, scores: Mapping[str, Any]) -> str:
        values = {name: float("nan") if (v := scores.get(name)) is None else v for name in self.required_scores}
        return self._settings.filename.format(step=step, images=images, **values) + SUFFIX

    @property
    def _listed(self) -> set[str]:
        return {name for _, _, name in self.ranking} | {name for _, name in self.recent}

    def _delete_unlisted(self) -> None:
        """Deletes checkpoints that are in no list: those that have left the lists, and those of a killed process."""
        existing = {path.name for path in self._folder.iterdir() if self._file_pattern.fullmatch(path.name)}
        for name in (existing | self._unlisted) - self._listed - {self.last.name, self.best.name}:
            (self._folder / name).unlink(missing_ok=True)
        self._unlisted.clear()


def _name_pattern(filename: str) -> re.Pattern[str]:
    """Returns a pattern of the names of a template: integers for step and images, number-like text for scores."""
    pattern = ""
    for text, field, _, _ in Formatter().parse(filename):
        number = "" if field is None else r"\d+" if field in _NON_SCORES else r"[-+\w.%]+"
        pattern += re.escape(text) + number
    return re.compile(pattern + re.escape(SUFFIX))
