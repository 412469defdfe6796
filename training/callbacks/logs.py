"""The callback StatsLog: writes losses and scores to `stats.jsonl`, and how the run ended to `result.json`."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ganctl.common.redaction import redact
from ganctl.files import add_path_to_errors, write_file
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.errors import DivergenceError

_NAME, RESULT = "stats.jsonl", "result.json"


class StatsLog(Callback):
    """Appends one JSON object for each log interval and each evaluation to `stats.jsonl`; writes `result.json`.

    A resumed run first deletes the lines that were written after its checkpoint, so that no step appears twice. It
    deletes the `result.json` of the run before after its first step: a start that fails leaves that result. `start` is
    the number of lines before those of the same start of the run, since `seconds` begins at 0 with each start.
    """

    def __init__(self) -> None:
        self._lines = self._start = 0
        self._trained = False  # whether a step was done since the start
        self._end: tuple[str, Mapping[str, Any]] | None = None  # stop reason and scores

    def on_start(self, run: Run) -> None:
        path = run.run_dir / _NAME
        kept = path.read_text("utf-8").splitlines(keepends=True)[: self._lines] if path.exists() else []
        write_file(path, "".join(kept))
        self._lines = self._start = len(kept)  # 0 if the run resumes in a new folder
        self._trained, self._end = False, None

    def on_step(self, run: Run) -> None:
        if not self._trained:
            self._trained = True
            (run.run_dir / RESULT).unlink(missing_ok=True)

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._write(run, {**stats, "images_per_second": round(run.timer.images_per_second, 1)})

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._write(run, {"evaluation": dict(scores)})

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        self._end = reason, scores
        self._write_result(run, reason, scores)

    def on_exception(self, run: Run, error: Exception) -> None:
        fault = redact(f"{type(error).__name__}: {error}")
        if self._end is not None:  # the run is complete, and another callback fails in `on_end`
            self._write_result(run, *self._end, error=fault)
        elif self._trained:
            self._write_result(run, "diverged" if isinstance(error, DivergenceError) else "failed", {}, error=fault)

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lines = state["lines"]

    def _write(self, run: Run, values: dict[str, Any]) -> None:
        append_line(run.run_dir / _NAME, json.dumps(_position(run) | {"start": self._start} | values))
        self._lines += 1

    def _write_result(self, run: Run, reason: str, scores: Mapping[str, Any], **facts: str) -> None:
        result = {"stop_reason": reason, **_position(run), **facts, "scores": dict(scores)}
        write_file(run.run_dir / RESULT, json.dumps(result, indent=2) + "\n")


def _position(run: Run) -> dict[str, Any]:
    return {"step": run.step, "images": run.images, "seconds": round(run.timer.seconds, 3)}


def append_line(path: Path, line: str) -> None:
    """Appends a line of text to a file.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    with add_path_to_errors(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line + "\n")


def append_text(run: Run, text: str) -> None:
    """Appends a line with the time to the log file of a run; addresses lose their passwords."""
    append_line(run.run_dir / "log.txt", f"{datetime.now().isoformat(' ', 'milliseconds')} {redact(text)}")
