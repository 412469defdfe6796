"""The callback StatsLog: writes losses and scores to `stats.jsonl`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ganctl.files import add_path_to_errors, write_file
from ganctl.training.callbacks.base import Callback, Run


class StatsLog(Callback):
    """Appends one JSON object for each log interval and each evaluation to `stats.jsonl`.

    A resumed run first deletes the lines that were written after its checkpoint, so that no step appears twice.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._lines = 0

    def on_start(self, run: Run) -> None:
        path = run.run_dir / "stats.jsonl"
        kept = path.read_text("utf-8").splitlines(keepends=True)[: self._lines] if path.exists() else []
        write_file(path, "".join(kept))
        self._lines = len(kept)  # 0 if the run resumes in a new folder
        self._file = path.open("a", encoding="utf-8")

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._write(run, {**stats, "images_per_second": round(run.clock.images_per_second, 1)})

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._write(run, {"evaluation": dict(scores)})

    def close(self) -> None:
        if self._file is not None:
            with add_path_to_errors(Path(self._file.name)):
                self._file.close()

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lines = state["lines"]

    def _write(self, run: Run, record: Mapping[str, Any]) -> None:
        assert self._file is not None, "on_start runs first"
        position = {"step": run.step, "images": run.images, "seconds": round(run.clock.seconds, 3)}
        with add_path_to_errors(Path(self._file.name)):
            self._file.write(json.dumps(position | dict(record)) + "\n")
            self._file.flush()
        self._lines += 1
