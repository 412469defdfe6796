"""The callback of `--callback wandb`: records a run in Weights & Biases, offline unless WANDB_MODE asks for more."""

import os
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ganctl import __version__
from ganctl.training.callbacks.base import Run
from ganctl.training.callbacks.tracker import Saved, Status, Tracker, labels

_MAX_TAG = 64  # characters that W&B accepts
# seconds until wandb writes to its file: so much of the history is lost with a killed process, 15 s by default
_FLUSH = "x_transaction_log_flush_interval"


class WandB(Tracker):
    """Logs config, history, images and a model artifact to the folder, project and server of wandb's own variables.

    Nothing is uploaded unless WANDB_MODE is set: `wandb.init` alone would upload wherever a user has signed in.
    """

    key = "wandb"
    _run: Any = None  # of wandb

    def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
        import wandb  # takes a second or more

        found_by = labels(run)
        config = {**settings, "run_dir": found_by["run_dir"], "ganctl": __version__}
        if origin is not None:
            config["resumed_from"] = origin
        ours = {"mode": "offline", "name": run.run_dir.absolute().name}  # where the user gives none
        options: dict[str, Any] = {
            key: value for key, value in ours.items() if f"WANDB_{key.upper()}" not in os.environ
        }
        if "WANDB_TAGS" not in os.environ:
            options["tags"] = [found_by[name][:_MAX_TAG] for name in ("preset", "data")]
        if record_id is not None:
            options |= {"id": record_id, "resume": "allow"}
        if _FLUSH in wandb.Settings.model_fields:
            options["settings"] = wandb.Settings(**{_FLUSH: 0.1})
        self._run = None  # until there is a record
        self._run = wandb.init(**options)
        self._run.config.update(config, allow_val_change=True)
        # an axis of our own: wandb keeps the values of its own newest step in memory, where a killed process loses them
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def send_scalars(self, scalars: Mapping[str, float], step: int, seconds: float) -> None:
        self._run.log({**scalars, "step": step})

    def send_image(self, name: str, picture: Image.Image, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(picture), "step": step})

    def send_result(self, scores: Mapping[str, float], reason: str, step: int) -> None:
        self._run.summary.update({**scores, "stop_reason": reason})

    def send_checkpoints(self, checkpoints: Mapping[str, Saved]) -> None:
        import wandb

        if checkpoints:
            metadata = {name: {"step": saved.step, "sha256": saved.sha256} for name, saved in checkpoints.items()}
            artifact = wandb.Artifact(f"model-{self._run.id}", "model", metadata=metadata)
            for saved in checkpoints.values():
                artifact.add_file(str(saved.path))
            self._run.log_artifact(artifact)

    def finish(self, status: Status) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "finished" else 1)
