"""The callback SampleGrid: writes a preview grid per evaluation, and at the end a GIF of these grids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ganctl.files import write_file
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.previews import fixed_grid
from ganctl.training.images.pictures import ENLARGEMENT, encode, encode_animation, to_picture

TIMELAPSE = "timelapse.gif"
_FILE_PATTERN = "[0-9]" * 8 + ".png"
_FRAME_MS, _LAST_FRAME_MS = 250, 2000


class SampleGrid(Callback):
    """Writes `samples/STEP.png` at each evaluation, and `timelapse.gif`, which shows these images, at the end.

    A resumed run first deletes the images that its checkpoint does not list: those of later steps, and of an extra
    evaluation after a limit.
    """

    def __init__(self) -> None:
        self._steps: list[int] = []

    def on_start(self, run: Run) -> None:
        folder = run.run_dir / "samples"
        folder.mkdir(exist_ok=True)
        for path in folder.glob(_FILE_PATTERN):
            if int(path.stem) not in self._steps:
                path.unlink()

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._steps.append(run.step)
        grid = encode(to_picture(fixed_grid(run), ENLARGEMENT), "png")
        write_file(run.run_dir / "samples" / f"{run.step:08d}.png", grid)

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        frames = [_open_frame(path) for path in sorted((run.run_dir / "samples").glob(_FILE_PATTERN))]
        if frames:
            durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
            write_file(run.run_dir / TIMELAPSE, encode_animation(frames, durations=durations))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self._steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = list(state["steps"])


def _open_frame(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("P") if picture.mode == "L" else picture.copy()  # colors get a palette of each frame
