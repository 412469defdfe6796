"""Checkpoint: when the state is saved beside the evaluations, what the files are called, and which of them stay."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from ganctl.files import is_temporary, link_file
from ganctl.training.callbacks.base import FINISHED, Callback, Run
from ganctl.training.checkpoint.format import SUFFIX, read_checkpoint, write_checkpoint
from ganctl.training.checkpoint.run_dir import CHECKPOINTS
from ganctl.training.config.schema import CheckpointSettings, Duration, finite, sign_of
from ganctl.training.device.timing import ResolvedDuration
from ganctl.training.errors import CheckpointError

_ALWAYS_KNOWN = ("step", "images")  # what a file's name may hold beside scores
_log = logging.getLogger(__name__)


class Checkpoint(Callback):
    """Keeps `last`, `best`, the top k by score, and the save before last; deletes the others.

    Every evaluation is saved. `ranking` (best first: score, step, name) and `recent` (step, name) belong to the
    training state: a resumed run keeps and drops the same files. Names that mean the same checkpoint are hard links to
    one file where the file system has them.
    """

    def __init__(
        self,
        *,
        monitor: str = "fd",
        mode: str = "auto",
        monitor_threshold: float | None = None,
        save_top_k: int = 2,
        save_last: bool = True,
        every: str | Duration | None = None,
        filename: str = "step-{step:08d}",
    ) -> None:
        """The arguments are those of the settings `checkpoint.…`, and are checked like them."""
        self._settings = CheckpointSettings.model_validate(
            {
                "monitor": monitor, "mode": mode, "monitor_threshold": monitor_threshold, "save_top_k": save_top_k,
                "save_last": save_last, "every": every, "filename": filename,
            }
        )  # fmt: skip
        self._sign = sign_of(monitor, self._settings.mode)
        named = [name for _, name, _, _ in Formatter().parse(filename) if name]
        self.watches = tuple(dict.fromkeys([monitor, *(name for name in named if name not in _ALWAYS_KNOWN)]))
        self._ours = _pattern(filename)
        self._dropped: set[str] = set()  # names that the lists held and do not hold any more
        self._folder = Path()
        self._every: ResolvedDuration | None = None
        self._every_state: dict[str, Any] | None = None
        self.ranking: list[tuple[float | None, int, str]] = []
        self.recent: list[tuple[int, str]] = []

    @property
    def last(self) -> Path:
        return self._folder / f"last{SUFFIX}"

    @property
    def best(self) -> Path:
        return self._folder / f"best{SUFFIX}"

    def on_start(self, run: Run) -> None:
        """Makes the folder what the lists say: a stop may have added a file of its own, a crash left one over.

        Checkpoints that are not in this folder (the run goes on in another one) are no longer ranked.
        """
        self._folder = run.run_dir / CHECKPOINTS
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._settings.every is not None:
            self._every = ResolvedDuration(self._settings.every, epoch_images=run.epoch_images)
            if self._every_state is not None:
                self._every.load_state_dict(self._every_state)
        self.ranking = [entry for entry in self.ranking if (self._folder / entry[2]).exists()]
        self.recent = [entry for entry in self.recent if (self._folder / entry[1]).exists()]
        if self.ranking:
            self._link(self._folder / self.ranking[0][2], self.best)
        for path in self._folder.iterdir():
            if is_temporary(path.name):  # of a process that was killed in a save
                path.unlink()
        self._drop_unlisted()

    def on_step(self, run: Run) -> None:
        if self._every is not None:
            self._every.update(run.clock)
            if self._every.crossed(run.images, run.batch_size):
                run.request_checkpoint()

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        if reason in FINISHED and not self._settings.save_last and self.best.exists():
            self.last.unlink()
            self._dropped |= self._listed
            self.recent = []
            self._drop_unlisted()

    def register(self, step: int, images: int, scores: Mapping[str, Any], *, fresh: bool) -> bool:
        """Takes the state that is about to be saved into the lists. With `fresh` scores it is ranked by them.

        Returns:
            whether it is the best one.
        """
        name, listed = self._name(step, images, scores), self._listed
        best = fresh and self.beats(scores)
        if fresh:
            entries = [*self.ranking, (finite(scores[self._settings.monitor]), step, name)]
            self.ranking = sorted(entries, key=lambda entry: self._place(*entry[:2]))[: self._settings.save_top_k]
        self.recent = [*self.recent[-1:], (step, name)]
        self._dropped |= listed
        return best

    def beats(self, scores: Mapping[str, Any]) -> bool:
        """Whether these scores, the latest, are better than all that are ranked."""
        place = self._place(finite(scores[self._settings.monitor]), math.inf)
        return not self.ranking or place < self._place(*self.ranking[0][:2])

    def _place(self, score: float | None, step: float) -> tuple[float, float]:
        """The sort key of the ranking, the best first. Of scores that are good enough the later one is better, of
        others that are the same the earlier one. Checkpoints without a score come last, the latest of them first."""
        if score is None:
            return math.inf, -step
        cost, enough = self._sign * score, self._settings.monitor_threshold
        return (-math.inf, -step) if enough is not None and cost <= self._sign * enough else (cost, step)

    def write(self, state: Mapping[str, Any], *, best: bool, listed: bool = True) -> Path:
        """Writes a state that was enlisted just before (or, not `listed`, as `last` alone), points `last` and, where
        it is the `best`, that name to it, and deletes what the lists no longer name.

        Raises:
            OSError: the disk is full, or the like; `last`, `best` and the others are then as they were.
        """
        path = self._folder / self.recent[-1][1] if listed else self.last
        write_checkpoint(path, state)
        if listed:
            self._link(path, self.last)
        if best:
            self._link(path, self.best)
        if listed:
            self._drop_unlisted()
        return self.last

    def newest_intact_best(self) -> Path:
        """`best`; where it has been damaged, the next best sound one, which takes its name.

        Raises:
            CheckpointError: all that were ranked are damaged.
        """
        for path in (self.best, *(self._folder / name for _, _, name in self.ranking)):
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                damage = error
                _log.warning("passed over: %s", error)
            else:
                if path != self.best:
                    self._link(path, self.best)
                return self.best
        raise damage

    def state_dict(self) -> dict[str, Any]:
        every = self._every.state_dict() if self._every is not None else self._every_state
        return {"ranking": self.ranking, "recent": self.recent, "every": every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ranking = [(score, step, name) for score, step, name in state["ranking"]]
        self.recent = [(step, name) for step, name in state["recent"]]
        self._every_state = state["every"]

    def _name(self, step: int, images: int, scores: Mapping[str, Any]) -> str:
        known = {name: float("nan") if (v := scores.get(name)) is None else v for name in self.watches}
        return self._settings.filename.format(step=step, images=images, **known) + SUFFIX

    @property
    def _listed(self) -> set[str]:
        return {name for _, _, name in self.ranking} | {name for _, name in self.recent}

    def _drop_unlisted(self) -> None:
        """Deletes what the lists have dropped, and what a killed process wrote and listed nowhere."""
        found = {path.name for path in self._folder.iterdir() if self._ours.fullmatch(path.name)}
        for name in (found | self._dropped) - self._listed - {self.last.name, self.best.name}:
            (self._folder / name).unlink(missing_ok=True)
        self._dropped.clear()

    def _link(self, target: Path, name: Path) -> None:
        link_file(target, name)


def _pattern(filename: str) -> re.Pattern[str]:
    """The names that a template can give: whole numbers for step and images, anything like a number for scores."""
    pattern = ""
    for text, field, _, _ in Formatter().parse(filename):
        number = "" if field is None else r"\d+" if field in _ALWAYS_KNOWN else r"[-+\w.%]+"
        pattern += re.escape(text) + number
    return re.compile(pattern + re.escape(SUFFIX))
