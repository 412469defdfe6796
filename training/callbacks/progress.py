"""The callback Progress: a progress bar on a terminal, plain lines elsewhere, and the log file."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.logs import append_text
from ganctl.training.evaluation.summary import score_line

_LINE_INTERVAL = 10.0  # seconds between plain lines


class Progress(Callback):
    """Writes to stderr, and line by line to `log.txt` in the run folder."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._losses = ""
        self._next_refresh = self._next_line = 0.0

    def on_start(self, run: Run) -> None:
        for text in run.notes:
            append_text(run, text)
        append_text(run, f"begins at step {run.step}")
        self._print(f"run folder {run.run_dir}")
        if self._console.is_terminal:
            note = TextColumn("{task.fields[note]}", markup=False)
            columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), note, TimeRemainingColumn(compact=True))
            self._bar = Bar(*columns, console=self._console, auto_refresh=False)
            self._task = self._bar.add_task("train", total=run.duration.images, completed=run.images, note="images")
            self._bar.start()

    def on_step(self, run: Run) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + run.config.log.refresh
            note = f"images  {run.timer.images_per_second:,.0f}/s{self._losses}"
            self._bar.update(self._task, completed=run.images, total=run.duration.images, note=note, refresh=True)

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._losses = f"  D {stats['loss_d']:.3f}  G {stats['loss_g']:.3f}"
        rate, time_left = run.timer.images_per_second, ""
        done = f"{run.images} images"
        if run.duration.images:
            done = f"{run.progress:.0%}"
            seconds = max(0, round((run.duration.images - run.images) / rate))
            time_left = f"  {seconds // 60}:{seconds % 60:02d} left"
        line = f"step {run.step}  {done}  {rate:,.0f} images/s{self._losses}{time_left}"
        append_text(run, line)
        if self._bar is None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_INTERVAL
            self._print(line)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        line = f"step {run.step}  {score_line(scores)}"
        append_text(run, line)
        self._print(line)

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        append_text(run, f"ends at step {run.step}: {reason}")
        if self._bar is not None:
            self._bar.update(self._task, completed=run.images, refresh=True)

    def on_exception(self, run: Run, error: Exception) -> None:
        append_text(run, f"fails at step {run.step}: {error}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _print(self, text: str) -> None:
        """Prints plain text: brackets and colons of a path are neither markup nor emoji."""
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
