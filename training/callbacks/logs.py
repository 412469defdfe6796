"""Callbacks that write down how a run goes: `stats.jsonl` and TensorBoard events."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import torch

from training.callback import Callback, Run
from training.callbacks.samples import fixed_grid

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


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
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text("".join(kept), "utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._write(run, {**stats, "images_per_second": round(run.images_per_second, 1)})

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._write(run, {"evaluation": dict(scores)})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lines = state["lines"]

    def _write(self, run: Run, record: Mapping[str, Any]) -> None:
        assert self._file is not None, "on_start comes first"
        where = {"step": run.step, "images": run.images, "seconds": round(run.seconds, 3)}
        self._file.write(json.dumps(where | dict(record)) + "\n")
        self._file.flush()
        self._lines += 1


class TensorBoard(Callback):
    """Losses, scores and the fixed latents' grid as TensorBoard events in the run's folder."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None

    def on_start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second of import that only this needs

        # what an earlier process wrote beyond our step is no part of this run's history
        self._writer = SummaryWriter(run.run_dir, purge_step=run.step + 1 if run.step else None)

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        for name, value in self._named({**stats, "images_per_second": run.images_per_second}, "train"):
            self._add(name, value, run)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        for name, value in self._named(scores, "validation"):
            self._add(name, value, run)
        for name, value in self._named(scores.get("class_accuracy") or {}, "validation_class_accuracy"):
            self._add(name, value, run)
        assert self._writer is not None
        picture = torch.from_numpy(fixed_grid(run))
        self._writer.add_image("fixed latents", picture, run.step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, name: str, value: float, run: Run) -> None:
        assert self._writer is not None, "on_start comes first"
        self._writer.add_scalar(name, value, run.step)

    @staticmethod
    def _named(values: Mapping[str, Any], group: str) -> Iterator[tuple[str, float]]:
        return ((f"{group}/{name}", value) for name, value in values.items() if isinstance(value, float))
