"""The callback Progress: a progress bar on a terminal, plain lines elsewhere, and the log file."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ganctl.files import add_path_to_errors
from ganctl.training.callbacks.base import Callback, Run

_LINE_INTERVAL = 10.0  # seconds between plain lines


class Progress(Callback):
    """Writes to stderr, and line by line to `log.txt` in the run folder."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._task: Any = None
        self._losses = ""
        self._next_refresh = self._next_line = 0.0
        self._log = logging.Logger("ganctl.train")  # separate from the global logger tree

    def on_start(self, run: Run) -> None:
        handler = _LogFile(run.run_dir / "log.txt", encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._log.addHandler(handler)
        self._log.info("begins at step %d", run.step)
        self._print(f"run folder {run.run_dir}")
        if self._console.is_terminal:
            columns = (
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bar = Bar(*columns, TimeRemainingColumn(compact=True), console=self._console, auto_refresh=False)
            self._task = self._bar.add_task("train", total=run.duration_images, completed=run.images, note="images")
            self._bar.start()

    def on_step(self, run: Run) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + run.config.log.refresh
            note = f"images  {run.clock.images_per_second:,.0f}/s{self._losses}"
            self._bar.update(self._task, completed=run.images, total=run.duration_images, note=note, refresh=True)

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._losses = f"  D {stats['loss_d']:.3f}  G {stats['loss_g']:.3f}"
        rate = f"{run.clock.images_per_second:,.0f} images/s"
        line = f"step {run.step}  {_share(run)}  {rate}{self._losses}{_time_left(run)}"
        self._log.info(line)
        if self._bar is None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_INTERVAL
            self._print(line)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        summary, labels = "no scores", scores["label_accuracy"]
        if scores["fd"] is not None:
            summary = f"FD {scores['fd']:.2f}"
            summary += "" if scores.get("no_summary") else f" ({scores['fd'] / scores['fd_floor']:.1f} × floor)"
        summary += f", label accuracy {labels:.3f}" if labels is not None else ""
        accuracy = scores.get("scorer_accuracy")
        summary += f" (real images {accuracy:.3f})" if accuracy is not None else ""
        line = f"step {run.step}  validation: {summary}"
        self._log.info(line)
        self._print(line)

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        self._log.info("ends at step %d: %s", run.step, reason)
        if self._bar is not None:
            self._bar.update(self._task, completed=run.images, refresh=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        for handler in self._log.handlers:
            handler.close()
        self._log.handlers.clear()

    def _print(self, text: str) -> None:
        """Prints plain text: brackets and colons of a path are neither markup nor emoji."""
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class _LogFile(logging.FileHandler):
    """A log file that raises disk errors; logging's own handlers print a traceback and continue."""

    def close(self) -> None:
        with add_path_to_errors(Path(self.baseFilename)):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - name of logging.Handler
        error = sys.exception()
        if isinstance(error, OSError):
            with add_path_to_errors(Path(self.baseFilename)):
                raise error
        super().handleError(record)


def _share(run: Run) -> str:
    return f"{run.images / run.duration_images:.0%}" if run.duration_images else f"{run.images} images"


def _time_left(run: Run) -> str:
    if not run.duration_images or not run.clock.images_per_second:
        return ""
    seconds = max(0, round((run.duration_images - run.images) / run.clock.images_per_second))
    return f"  {seconds // 60}:{seconds % 60:02d} left"
