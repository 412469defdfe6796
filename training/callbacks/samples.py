"""The callback SampleGrid: writes an early preview grid, one per evaluation, and at the end a GIF of the latter."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ganctl.files import write_file
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.logs import append_text
from ganctl.training.callbacks.previews import fixed_grid
from ganctl.training.distributed.ranks import preserve_random_states
from ganctl.training.images.pictures import ENLARGEMENT, encode, encode_animation, to_picture

FIRST, TIMELAPSE = "first.png", "timelapse.gif"
_FIRST_AFTER = 1.0  # seconds of training
_FILE_PATTERN = "[0-9]" * 8 + ".png"
_FRAME_MS, _LAST_FRAME_MS = 250, 2000
_log = logging.getLogger(__name__)


class SampleGrid(Callback):
    """Writes `samples/STEP.png` at each evaluation, and `timelapse.gif`, which shows these images, at the end.

    A new run also writes `first.png` after a second of training, and anew each time that the training time has doubled,
    until the first evaluation. That picture depends on the clock, so it is no part of the state, and drawing it keeps
    the random state.

    A resumed run first deletes the images that its checkpoint does not list: those of later steps, and of an extra
    evaluation after a limit.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._first_at = math.inf  # seconds of training

    def on_start(self, run: Run) -> None:
        self._first_at = math.inf if run.step else _FIRST_AFTER
        folder = run.run_dir / "samples"
        folder.mkdir(exist_ok=True)
        for path in folder.glob(_FILE_PATTERN):
            if int(path.stem) not in self._steps:
                path.unlink()

    def on_step(self, run: Run) -> None:
        if run.timer.seconds < self._first_at:
            return
        with run.timer.pause(), preserve_random_states(run.device):
            path = _write_grid(run, run.run_dir / FIRST)
        if self._first_at == _FIRST_AFTER:
            text = f"step {run.step}  first picture {path}; it is drawn anew until the first evaluation"
            append_text(run, text)
            _log.warning("%s", text)
        self._first_at = 2 * run.timer.seconds

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._first_at = math.inf
        self._steps.append(run.step)
        _write_grid(run, run.run_dir / "samples" / f"{run.step:08d}.png")

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        frames = [_open_frame(path) for path in sorted((run.run_dir / "samples").glob(_FILE_PATTERN))]
        if frames:
            durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
            write_file(run.run_dir / TIMELAPSE, encode_animation(frames, durations=durations))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self._steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = list(state["steps"])


def _write_grid(run: Run, path: Path) -> Path:
    write_file(path, encode(to_picture(fixed_grid(run), ENLARGEMENT), "png"))
    return path


def _open_frame(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("P") if picture.mode == "L" else picture.copy()  # colors get a palette of each frame
