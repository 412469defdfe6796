"""The base class of experiment trackers: which settings, scalars, images and files of a run they record, and when."""

import importlib.util
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ganctl.common.redaction import redact
from ganctl.files import write_file
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.outbox import Outbox
from ganctl.training.callbacks.previews import fixed_grid
from ganctl.training.callbacks.scalars import (
    THROUGHPUT,
    evaluation_scalars,
    final_scalars,
    printable_settings,
    train_scalars,
)
from ganctl.training.checkpoint.format import SUFFIX, read_checkpoint
from ganctl.training.checkpoint.run_dir import CHECKPOINTS, has_checkpoints
from ganctl.training.errors import ConfigError
from ganctl.training.images.pictures import ENLARGEMENT, to_picture
from ganctl.training.readers.tree import printable

IMAGE = "fixed latents"  # the name of the preview grid
_LAST_WAIT = 300.0  # seconds for what is not sent yet when the run ends
_log = logging.getLogger(__name__)

Status = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Saved:
    """A checkpoint file of the run."""

    path: Path
    step: int
    sha256: str  # as `ganctl inspect` shows it


class Tracker(Callback, ABC):
    """Records a run in another tool; a subclass has the calls of that tool's package.

    A run that resumes in its folder continues its record, whose id is part of the training state. The file KEY.json in
    the run folder has the last steps that were sent, since a killed process may have sent steps that its checkpoint
    does not have: those are trained again, and not sent again.

    A thread sends everything, and training does not wait for it. A failure while training is reported once, and
    training continues. A failure in `open` ends the run before its first step.
    """

    def __init__(self) -> None:
        """Checks that the package of the tool, which is called like the extra and `key`, is installed.

        Raises:
            ConfigError: it is not.
        """
        if not _is_installed(self.key):
            remedy = f"pip install 'ganctl[{self.key}]'"
            raise ConfigError([f"--callback {self.key}: found no package {self.key}. Install it: {remedy}"])
        self._id: str | None = None
        self._skipped: dict[str, int] = {}  # kind of scalars → the last step that an earlier process has sent
        self._sent: dict[str, int] = {}  # kind of scalars → the last step that was sent; the thread updates it
        self._status: Status = "failed"
        self._outbox: Outbox | None = None
        self._reported = False

    @abstractmethod
    def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
        """Creates a record with the settings, or continues one.

        Args:
            run: the training run, before its first step.
            settings: the preset and the settings.
            record_id: the record to continue; None creates one.
            origin: of a new record, the record of the run that it continues in another folder, if any.

        Returns:
            The id of the record.
        """

    @abstractmethod
    def send_scalars(self, scalars: Mapping[str, float], step: int, seconds: float) -> None:
        """Sends scalars of a step; `seconds` is the time since the epoch."""

    @abstractmethod
    def send_image(self, name: str, picture: Image.Image, step: int) -> None:
        """Sends an image of a step."""

    @abstractmethod
    def send_result(
        self, scores: Mapping[str, float], reason: str, step: int, checkpoints: Mapping[str, Saved]
    ) -> None:
        """Sends the reported scores, the stop reason, and the files of the checkpoints `best` and `last`."""

    @abstractmethod
    def finish(self, status: Status) -> None:
        """Closes the record."""

    def on_start(self, run: Run) -> None:
        self._status, self._reported = "failed", False
        continued, origin = (self._id, None) if has_checkpoints(run.run_dir) else (None, self._id)
        try:
            self._id = self.open(run, printable_settings(run.config), continued, origin)
        except Exception as error:  # of any kind: a wrong address, a key that is refused, a folder without permission
            fault = f"the record cannot be opened: {type(error).__name__}: {redact(str(error)).rstrip('. ')}"
            raise ConfigError([f"--callback {self.key}: {fault}. Check {self.key.upper()}_… variables."]) from error
        self._file = run.run_dir / f"{self.key}.json"
        self._skipped = _read_sent(self._file, self._id) if continued else {}
        self._sent = dict(self._skipped)
        if (repeated := max(self._skipped.values(), default=0)) > run.step:
            _log.warning("%s: the record has steps up to %d already; they are not sent again", self.key, repeated)
        self._outbox = Outbox(self.key)
        self._write_sent()

    def on_log(self, run: Run, stats: Mapping[str, float]) -> None:
        self._send(run, "train", train_scalars(stats) | {THROUGHPUT: run.timer.images_per_second})

    def on_evaluation(self, run: Run, scores: Mapping[str, Any]) -> None:
        if self._send(run, "validation", evaluation_scalars(scores)):
            self._put(partial(self.send_image, IMAGE, to_picture(fixed_grid(run), ENLARGEMENT), run.step))

    def on_end(self, run: Run, reason: str, scores: Mapping[str, Any]) -> None:
        self._status = "interrupted" if reason.startswith("SIG") else "finished"
        finals = final_scalars({"split": "val", **scores})
        self._put(lambda: self.send_result(finals, reason, run.step, _saved_checkpoints(run.run_dir)))
        self._close_outbox()  # Checkpoint may delete files after this

    def close(self) -> None:
        self._close_outbox()

    def state_dict(self) -> dict[str, Any]:
        return {"id": self._id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._id = state["id"]

    def _send(self, run: Run, kind: str, scalars: Mapping[str, float]) -> bool:
        """Sends scalars, unless the record has this step of them; returns whether it does."""
        if run.step <= self._skipped.get(kind, -1):
            return False
        values, step, seconds = {**scalars, "images": float(run.images)}, run.step, time.time()

        def send() -> None:
            self.send_scalars(values, step, seconds)
            self._sent[kind] = step
            self._write_sent()

        self._put(send)
        return True

    def _put(self, task: Callable[[], None]) -> None:
        assert self._outbox is not None, "on_start creates it"
        self._outbox.put(task)
        self._report()

    def _report(self) -> None:
        if self._outbox is not None and self._outbox.errors and not self._reported:
            self._reported = True
            error = self._outbox.errors[0]
            fault = redact(f"{type(error).__name__}: {error}")
            _log.warning("%s: part of the record was not sent, and training continues: %s", self.key, fault)

    def _write_sent(self) -> None:
        write_file(self._file, json.dumps({"id": self._id, "sent": self._sent}) + "\n")

    def _close_outbox(self) -> None:
        if self._outbox is None:
            return
        self._outbox.put(partial(self.finish, self._status))
        complete = self._outbox.close(_LAST_WAIT)
        self._report()
        if not complete:
            _log.warning("%s: the end of the record was not sent", self.key)
        self._outbox = None


def _is_installed(package: str) -> bool:
    """Returns whether a package can be imported; a folder of that name, such as wandb's `wandb/`, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _read_sent(path: Path, record_id: str) -> dict[str, int]:
    """Reads the last steps that were sent to a record; {} if the file is of another record."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(content["sent"]) if content["id"] == record_id else {}


def _saved_checkpoints(run_dir: Path) -> dict[str, Saved]:
    """Reads and verifies the checkpoints `best` and `last`, those that exist."""
    paths = {name: run_dir / CHECKPOINTS / f"{name}{SUFFIX}" for name in ("best", "last")}
    read = {name: read_checkpoint(path) for name, path in paths.items() if path.exists()}
    return {name: Saved(paths[name], checkpoint.step, checkpoint.sha256) for name, checkpoint in read.items()}


def labels(run: Run) -> dict[str, str]:
    """Returns what a record is found by: the preset, the data set, and the run folder."""
    folder = printable(run.run_dir.absolute())
    return {"preset": run.config.preset, "data": printable(run.config.data.name), "run_dir": folder}
