"""The base class of experiment trackers: which settings, scalars, images and files of a run they record, and when."""

import importlib.util
import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from PIL import Image

from ganctl.common.redaction import redact
from ganctl.files import write_file
from ganctl.signals import Terminated, noticed_signals
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
from ganctl.training.checkpoint.stored_config import changed_settings
from ganctl.training.errors import CheckpointError, ConfigError
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
    does not have: those are trained again, and not sent again. If settings changed, or that file does not say what was
    sent, the run gets a record of its own, which names the one before.

    A thread sends everything, and training does not wait for it. A failure while training is reported once, and
    training continues. A failure or a signal in `open` ends the run before its first step.
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
        self._settings: dict[str, Any] = {}  # of the record
        self._signaled = threading.Event()  # whether a termination signal came
        self._cleanup = ExitStack()

    @abstractmethod
    def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
        """Creates a record with the settings, or continues one.

        Args:
            run: the training run, before its first step.
            settings: the preset and the settings.
            record_id: the record to continue; None creates one.
            origin: of a new record, the record before it, if any: of another folder, or with other settings.

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
    def send_result(self, scores: Mapping[str, float], reason: str, step: int) -> None:
        """Sends the reported scores and the stop reason."""

    @abstractmethod
    def send_checkpoints(self, checkpoints: Mapping[str, Saved]) -> None:
        """Sends the files of the checkpoints `best` and `last`."""

    @abstractmethod
    def finish(self, status: Status) -> None:
        """Closes the record; does nothing if `open` failed before there was one."""

    def on_start(self, run: Run) -> None:
        self._status, self._reported = "failed", False
        self._signaled.clear()
        self._cleanup.enter_context(noticed_signals(lambda number: self._signaled.set()))
        self._file, settings = run.run_dir / f"{self.key}.json", printable_settings(run.config)
        continued, origin = (self._id, None) if has_checkpoints(run.run_dir) else (None, self._id)
        sent: dict[str, int] = {}
        if continued is not None:
            known = _read_sent(self._file, continued)
            if (reason := self._reason_to_branch(run, settings, known)) is not None:
                _log.warning("%s: starts a new record, since %s; it names the record before it", self.key, reason)
                continued, origin = None, continued
            else:
                sent = known or {}
        try:
            with noticed_signals(_raise_terminated):  # nothing to save yet: a signal need not wait for the server
                self._id = self.open(run, settings, continued, origin)
        except BaseException as error:
            with suppress(Exception):  # of any kind; `error` is raised next, and is the reason
                self.finish("failed")
            if not isinstance(error, Exception):
                raise
            # of any kind: a wrong address, a key that is refused, a folder without permission
            fault = f"the record cannot be opened: {type(error).__name__}: {redact(str(error)).rstrip('. ')}"
            raise ConfigError([f"--callback {self.key}: {fault}. Check {self.key.upper()}_… variables."]) from error
        self._settings, self._skipped, self._sent = settings, sent, dict(sent)
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
        if self._status == "interrupted":
            self._signaled.set()
        self._put(partial(self.send_result, finals, reason, run.step))
        self._put(partial(self._send_checkpoints, run.run_dir))
        self._close_outbox()  # Checkpoint may delete files after this

    def close(self) -> None:
        try:
            self._close_outbox()
        finally:
            self._cleanup.close()

    def state_dict(self) -> dict[str, Any]:
        return {"id": self._id, "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._id, self._settings = state["id"], dict(state.get("settings", {}))

    def _reason_to_branch(self, run: Run, settings: Mapping[str, Any], sent: Mapping[str, int] | None) -> str | None:
        """Returns why a resumed run must not continue its record, which then would be of two runs; None if it may."""
        if sent is None:
            return f"{self._file} does not say which steps the former one has"
        changed = [name for name in changed_settings(self._settings, settings) if name in self._settings]
        if changed and max(sent.values(), default=0) > run.step:
            return f"the former one has later steps with another {', '.join(changed)}"
        return None

    def _send_checkpoints(self, run_dir: Path) -> None:
        if self._signaled.is_set():  # a scheduler does not wait for files
            return
        try:
            checkpoints = _saved_checkpoints(run_dir)
        except (CheckpointError, OSError) as error:
            _log.warning("%s: the checkpoints were not sent: %s", self.key, error)
        else:
            self.send_checkpoints(checkpoints)

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
        complete = self._outbox.close(partial(self.finish, self._status), _LAST_WAIT, self._signaled.is_set)
        self._report()
        if not complete:
            _log.warning("%s: the end of the record was not sent", self.key)
        self._outbox = None


def _is_installed(package: str) -> bool:
    """Returns whether a package can be imported; a folder of that name, such as wandb's `wandb/`, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _read_sent(path: Path, record_id: str) -> dict[str, int] | None:
    """Reads the last steps that were sent to a record; None if the file is absent, damaged or of another record."""
    try:
        content = json.loads(path.read_bytes())
        if content["id"] != record_id:
            return None
        return {str(kind): int(step) for kind, step in content["sent"].items()}
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):  # any JSON, or none
        return None


def _raise_terminated(number: int) -> NoReturn:
    raise Terminated(number)


def _saved_checkpoints(run_dir: Path) -> dict[str, Saved]:
    """Reads and verifies the checkpoints `best` and `last`, those that exist."""
    paths = {name: run_dir / CHECKPOINTS / f"{name}{SUFFIX}" for name in ("best", "last")}
    read = {name: read_checkpoint(path) for name, path in paths.items() if path.exists()}
    return {name: Saved(paths[name], checkpoint.step, checkpoint.sha256) for name, checkpoint in read.items()}


def labels(run: Run) -> dict[str, str]:
    """Returns what a record is found by: the preset, the data set, and the run folder."""
    folder = printable(run.run_dir.absolute())
    return {"preset": run.config.preset, "data": printable(run.config.data.name), "run_dir": folder}
