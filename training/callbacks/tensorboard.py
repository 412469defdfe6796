"""TensorBoard: losses, scores, pictures and films, the generator's graph, and settings with the final scores."""

import io
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.jit._trace import TracerWarning

from ganctl.files import read_file
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.previews import class_grids, fixed_grid, walk
from ganctl.training.callbacks.samples import TIMELAPSE
from ganctl.training.data.folder_tree import shown
from ganctl.training.images.pictures import ENLARGEMENT, encode_film, to_picture

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# the page "custom scalars": charts with several curves (a chart's tags are regular expressions)
_CHARTS = {
    "averaged generator": {
        "Fréchet distance and the floor of real images": ["Multiline", ["validation/fd$", "validation/fd_floor$"]],
        "label accuracy": ["Multiline", ["validation/label_accuracy$"]],
    },
    "training": {"losses": ["Multiline", ["train/loss_d$", "train/loss_g$"]]},
}
_WALK_MS = 60


class TensorBoard(Callback):
    """Writes events into the run's folder. At each evaluation: the scores, the grid of fixed latents, a picture of each
    class, and a walk through latent space as a film; at the end the timelapse, where Timelapse comes before.

    A resumed run's history has no overlap: what was written at the checkpoint's step or later is purged, and what
    belongs to that very step (its state remembers it) is written once more. So a look that a limit made off the
    schedule leaves no trace.
    """

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._newest: tuple[int, dict[str, float], bool] = (-1, {}, False)  # step, its scalars, whether with pictures
        self._has_graph = False
        self._thread_hook = threading.excepthook  # in its place while the writer is open
        self._alias = ExitStack()

    def on_start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second of import that only this needs

        step, scalars, picture = self._newest
        _wait_for_a_later_name(run.run_dir)
        from torch.utils.tensorboard.summary import custom_scalars

        threading.excepthook = self._pass_over_disk_errors
        self._writer = SummaryWriter(self._alias.enter_context(utf8_alias(run.run_dir)), purge_step=run.step)
        self._add_summary(custom_scalars(_CHARTS), run)  # at each start, since the folder may be a new one
        if step == run.step:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            if picture:
                self._add_pictures(run)

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._add(run, stats, "train")
        assert self._writer is not None
        self._writer.add_scalar("train/images_per_second", run.clock.images_per_second, run.step)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._add(run, scores, "validation")
        self._add(run, scores.get("class_accuracy") or {}, "validation_class_accuracy")
        self._newest = (*self._newest[:2], True)
        self._add_pictures(run)
        if not self._has_graph:  # not at the start: tracing costs some seconds of it
            self._add_graph(run)
        assert self._writer is not None
        self._writer.flush()

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        """The timelapse; and the settings beside the scores, for TensorBoard's page that compares runs."""
        if (run.run_dir / TIMELAPSE).exists():
            self._add_film("timelapse", read_file(run.run_dir / TIMELAPSE), run)
        known = {k: v for k, v in run.config.flat().items() if isinstance(v, bool | int | float | str)}
        settings = {k: shown(v) if isinstance(v, str) else v for k, v in known.items()}  # a path may not be UTF-8
        finals = {f"{scores['split']}/{name}": value for name, value in _numbers(scores)}
        if not finals:
            return
        from torch.utils.tensorboard.summary import hparams

        # not `add_hparams`: it writes a second file, which a resumed run's purge may come too early for
        assert self._writer is not None
        for summary in hparams(settings, finals):
            self._add_summary(summary, run)
        for name, value in finals.items():
            self._writer.add_scalar(name, value, run.step)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            threading.excepthook = self._thread_hook
            self._alias.close()

    def state_dict(self) -> dict[str, Any]:
        step, scalars, picture = self._newest
        return {"step": step, "scalars": dict(scalars), "picture": picture, "graph": self._has_graph}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._newest = (state["step"], dict(state["scalars"]), state["picture"])
        self._has_graph = state["graph"]

    def _pass_over_disk_errors(self, failure: threading.ExceptHookArgs) -> None:
        """Prints no traceback of the writer's own thread for a disk that it cannot write: the next call raises it."""
        is_the_writers = type(failure.thread).__module__.startswith("tensorboard.")
        if not (is_the_writers and isinstance(failure.exc_value, OSError)):
            self._thread_hook(failure)

    def _add(self, run: Run, values: Mapping[str, Any], group: str) -> None:
        assert self._writer is not None, "on_start comes first"
        if self._newest[0] != run.step:
            self._newest = (run.step, {}, False)
        for name, value in _numbers(values):
            self._newest[1][f"{group}/{name}"] = value
            self._writer.add_scalar(f"{group}/{name}", value, run.step)

    def _add_pictures(self, run: Run) -> None:
        assert self._writer is not None
        grids = {f"class/{name}": grid for name, grid in class_grids(run).items()}
        for tag, grid in {"fixed latents": fixed_grid(run), **grids}.items():
            self._writer.add_image(tag, torch.from_numpy(grid), run.step, dataformats="HWC")
        film = encode_film([to_picture(frame, ENLARGEMENT) for frame in walk(run)], durations=_WALK_MS)
        self._add_film("walk", film, run)

    def _add_film(self, tag: str, gif: bytes, run: Run) -> None:
        """TensorBoard hands an image on as it is encoded, and a browser plays a GIF."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(io.BytesIO(gif)) as first:
            width, height = first.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), run)

    def _add_summary(self, summary: Any, run: Run) -> None:
        assert self._writer is not None
        events: Any = self._writer.file_writer
        events.add_summary(summary, run.step)

    def _add_graph(self, run: Run) -> None:
        assert self._writer is not None
        self._has_graph = True
        label = (torch.zeros(2, dtype=torch.int64, device=run.device),) if run.config.model.conditional else ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # add_graph traces with TorchScript, which is deprecated
            warnings.simplefilter("ignore", TracerWarning)  # networks may draw random numbers
            self._writer.add_graph(run.generator, (torch.zeros(2, run.generator.latent_dim, device=run.device), *label))


@contextmanager
def utf8_alias(folder: Path) -> Iterator[Path]:
    """The folder, or a link to it where its path is not UTF-8, which TensorBoard and torch's profiler cannot open."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="ganctl-") as place:
            link = Path(place) / "run"
            link.symlink_to(folder.absolute(), target_is_directory=True)
            yield link
    else:
        yield folder


def _wait_for_a_later_name(folder: Path) -> None:
    """TensorBoard reads event files by their names, which hold whole seconds: a file of the same second might be read
    before the one that it purges."""
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    time.sleep(min(1.0, max(0.0, max(seconds, default=0) + 1 - time.time())))


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in values.items() if isinstance(value, float))
