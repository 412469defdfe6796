"""The callback TensorBoard: losses, scores, images, animations, the graph of the generator, and hyperparameters."""

import io
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.jit._trace import TracerWarning

from ganctl.files import read_file
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.previews import class_grids, fixed_grid, walk
from ganctl.training.callbacks.samples import TIMELAPSE
from ganctl.training.callbacks.scalars import (
    THROUGHPUT,
    evaluation_scalars,
    final_scalars,
    printable_settings,
    train_scalars,
)
from ganctl.training.images.pictures import ENLARGEMENT, encode_animation, to_picture

# charts of the "custom scalars" page; tags are regular expressions
_CHARTS = {
    "averaged generator": {
        "Fréchet distance and the floor of real images": ["Multiline", ["validation/fd$", "validation/fd_floor$"]],
        "label accuracy": ["Multiline", ["validation/label_accuracy$"]],
    },
    "training": {"losses": ["Multiline", ["train/loss_d$", "train/loss_g$"]]},
}
_WALK_MS = 60


class TensorBoard(Callback):
    """Writes TensorBoard events into the run folder.

    Each evaluation adds the scores, the grid of fixed latents, a grid per class, and a latent walk as a GIF. The end of
    the run adds the timelapse, if SampleGrid runs before this callback.

    A resumed run writes nothing twice: events from the checkpoint's step on are purged, and those of that step, which
    the callback's state holds, are written again. So the extra evaluation of a run that a limit ended is purged.
    """

    def __init__(self) -> None:
        self._newest: tuple[int, dict[str, float], bool] = (-1, {}, False)  # step, its scalars, whether it has images
        self._has_graph = False
        self._cleanup = ExitStack()

    def on_start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes half a second to import
        from torch.utils.tensorboard.summary import custom_scalars

        step, scalars, has_images = self._newest
        _wait_for_later_name(run.run_dir)
        self._thread_hook = threading.excepthook
        self._cleanup.callback(setattr, threading, "excepthook", self._thread_hook)
        threading.excepthook = self._ignore_disk_errors
        folder = self._cleanup.enter_context(utf8_alias(run.run_dir))
        self._writer = SummaryWriter(folder, purge_step=run.step)
        self._cleanup.callback(self._writer.close)
        self._add_summary(custom_scalars(_CHARTS), run)  # at each start: a resumed run may have a new folder
        if step == run.step:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            if has_images:
                self._add_images(run)

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._add(run, train_scalars(stats))
        self._writer.add_scalar(THROUGHPUT, run.timer.images_per_second, run.step)

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        self._add(run, evaluation_scalars(scores))
        self._newest = (*self._newest[:2], True)
        self._add_images(run)
        if not self._has_graph:  # not in on_start: tracing takes seconds
            self._add_graph(run)
        self._writer.flush()

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        """Adds the timelapse, and the settings with the final scores for the hyperparameter page."""
        if (run.run_dir / TIMELAPSE).exists():
            self._add_gif("timelapse", read_file(run.run_dir / TIMELAPSE), run)
        finals = final_scalars(scores)
        if not finals:
            return
        from torch.utils.tensorboard.summary import hparams

        # not `add_hparams`: it writes a second file, which a resumed run's purge may miss
        for summary in hparams(printable_settings(run.config), finals):
            self._add_summary(summary, run)
        for name, value in finals.items():
            self._writer.add_scalar(name, value, run.step)

    def close(self) -> None:
        self._cleanup.close()

    def state_dict(self) -> dict[str, Any]:
        step, scalars, has_images = self._newest
        return {"step": step, "scalars": dict(scalars), "picture": has_images, "graph": self._has_graph}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._newest = (state["step"], dict(state["scalars"]), state["picture"])
        self._has_graph = state["graph"]

    def _ignore_disk_errors(self, failure: threading.ExceptHookArgs) -> None:
        """Suppresses the traceback of a disk error in the writer's thread; the next call raises it."""
        from_writer = type(failure.thread).__module__.startswith("tensorboard.")
        if not (from_writer and isinstance(failure.exc_value, OSError)):
            self._thread_hook(failure)

    def _add(self, run: Run, scalars: Mapping[str, float]) -> None:
        if self._newest[0] != run.step:
            self._newest = (run.step, {}, False)
        for name, value in scalars.items():
            self._newest[1][name] = value
            self._writer.add_scalar(name, value, run.step)

    def _add_images(self, run: Run) -> None:
        grids = {f"class/{name}": grid for name, grid in class_grids(run).items()}
        for tag, grid in {"fixed latents": fixed_grid(run), **grids}.items():
            self._writer.add_image(tag, torch.from_numpy(grid), run.step, dataformats="HWC")
        gif = encode_animation([to_picture(frame, ENLARGEMENT) for frame in walk(run)], durations=_WALK_MS)
        self._add_gif("walk", gif, run)

    def _add_gif(self, tag: str, gif: bytes, run: Run) -> None:
        """Adds an encoded GIF: TensorBoard serves images as encoded, and the browser plays it."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(io.BytesIO(gif)) as picture:
            width, height = picture.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), run)

    def _add_summary(self, summary: Any, run: Run) -> None:
        events: Any = self._writer.file_writer
        events.add_summary(summary, run.step)

    def _add_graph(self, run: Run) -> None:
        self._has_graph = True
        label = (torch.zeros(2, dtype=torch.int64, device=run.device),) if run.config.model.conditional else ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # add_graph uses the deprecated TorchScript
            warnings.simplefilter("ignore", TracerWarning)  # for networks that draw random numbers
            self._writer.add_graph(run.generator, (torch.zeros(2, run.generator.latent_dim, device=run.device), *label))


@contextmanager
def utf8_alias(folder: Path) -> Iterator[Path]:
    """Yields the folder, or a link to it if its path is not UTF-8, which TensorBoard and the profiler cannot open."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="ganctl-") as folder_of_link:
            link = Path(folder_of_link) / "run"
            link.symlink_to(folder.absolute(), target_is_directory=True)
            yield link
    else:
        yield folder


def _wait_for_later_name(folder: Path) -> None:
    """Waits until the name of a new event file comes after the existing ones.

    TensorBoard reads event files in the order of their names, which contain whole seconds. A new file of the same
    second might be read before the file whose events it purges.
    """
    seconds = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    time.sleep(min(1.0, max(0.0, max(seconds, default=0) + 1 - time.time())))
