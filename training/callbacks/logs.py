"""StatsLog: how a run goes, as `stats.jsonl`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ganctl.files import naming, write_file
from ganctl.training.callbacks.base import Callback, Run


class StatsLog(Callback):
    """Appends one JSON object for each log interval and each evaluation to `stats.jsonl`.

    A resumed run first drops the lines that were written after its checkpoint: no step stands there twice.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._lines = 0

    def on_start(self, run: Run) -> None:
        path = run.run_dir / "stats.jsonl"
        kept = path.read_text("utf-8").splitlines(keepends=True)[: self._lines] if path.exists() else []
        write_file(path, "".join(kept))
        self._lines = len(kept)  # none, where the run goes on in another folder
        self._file = path.open("a", encoding="utf-8")

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._write(run, {**stats, "images_per_second": round(run.clock.images_per_second, 1)})

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._write(run, {"evaluation": dict(scores)})

    def close(self) -> None:
        if self._file is not None:
            with naming(Path(self._file.name)):
                self._file.close()

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lines = state["lines"]

    def _write(self, run: Run, record: Mapping[str, Any]) -> None:
        assert self._file is not None, "on_start comes first"
        where = {"step": run.step, "images": run.images, "seconds": round(run.clock.seconds, 3)}
        with naming(Path(self._file.name)):
            self._file.write(json.dumps(where | dict(record)) + "\n")
            self._file.flush()
        self._lines += 1
