"""The callback of `--callback mlflow`: records a run in MLflow, locally or on a tracking server."""

import os
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image

from ganctl import __version__
from ganctl.common.redaction import redact
from ganctl.training.callbacks.base import Run
from ganctl.training.callbacks.tracker import Saved, Status, Tracker, labels

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_MAX_KEY, _MAX_PARAM = 250, 6000  # characters that MLflow accepts


class MLflow(Tracker):
    """Logs parameters, metrics, images and checkpoints to the store and the experiment of MLflow's own variables."""

    key = "mlflow"

    def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
        import mlflow  # takes a second or more

        with _quick_failure():
            self._client = mlflow.MlflowClient()
            record_id = record_id or os.environ.get("MLFLOW_RUN_ID")
            if record_id is None:
                name = run.run_dir.absolute().name
                record_id = self._client.create_run(_experiment(), run_name=name, tags=_tags(run)).info.run_id
            else:
                self._client.update_run(record_id, status="RUNNING")
            self._record = record_id
            self._log_params({name: str(value)[:_MAX_PARAM] for name, value in settings.items()})
            if origin is not None:
                self._client.set_tag(record_id, "ganctl.resumed_from", origin)
        return record_id

    def send_scalars(self, scalars: Mapping[str, float], step: int, seconds: float) -> None:
        from mlflow.entities import Metric

        milliseconds = round(1000 * seconds)
        metrics = [Metric(metric_key(name), value, milliseconds, step) for name, value in scalars.items()]
        self._client.log_batch(self._record, metrics=metrics)

    def send_image(self, name: str, picture: Image.Image, step: int) -> None:
        self._client.log_image(self._record, picture, key=name, step=step, synchronous=True)

    def send_result(
        self, scores: Mapping[str, float], reason: str, step: int, checkpoints: Mapping[str, Saved]
    ) -> None:
        self.send_scalars(scores, step, time.time())
        self._client.set_tag(self._record, "ganctl.stop_reason", reason)
        for name, saved in checkpoints.items():
            self._client.log_artifact(self._record, str(saved.path), "checkpoints")
            self._client.set_tag(self._record, f"ganctl.{name}.step", saved.step)
            self._client.set_tag(self._record, f"ganctl.{name}.sha256", saved.sha256)

    def finish(self, status: Status) -> None:
        self._client.set_terminated(self._record, _STATUS[status])

    def _log_params(self, params: Mapping[str, str]) -> None:
        """Logs parameters; those that the record has with another value, which MLflow keeps, become tags."""
        from mlflow.entities import Param, RunTag

        logged = self._client.get_run(self._record).data.params
        new = [Param(name, value) for name, value in params.items() if name not in logged]
        changed = {name: value for name, value in params.items() if logged.get(name, value) != value}
        tags = [RunTag(f"ganctl.changed.{name}", value) for name, value in changed.items()]
        self._client.log_batch(self._record, params=new, tags=tags)


def metric_key(name: str) -> str:
    """Returns a name of a metric that MLflow accepts: other characters, such as those of a class, as `u1f600`."""
    group, slash, rest = name.partition("/")
    rest = re.sub(r"[^\w.: -]", _code, rest)
    if posixpath.normpath(f"{group}/{rest}") != f"{group}/{rest}":  # a class called `..`
        rest = re.sub(r"\.", _code, rest)
    return (group + slash + rest)[:_MAX_KEY]


def _code(match: re.Match[str]) -> str:
    return f"u{ord(match[0]):x}"


def _experiment() -> str:
    """Returns the id of the experiment of MLflow's variables; creates the one that is named."""
    import mlflow

    if (experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
        return str(mlflow.get_experiment(experiment_id).experiment_id)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    return "0" if name is None else str(mlflow.set_experiment(name).experiment_id)


def _tags(run: Run) -> dict[str, str]:
    """Returns the tags of a record: ours, and those of MLflow, such as the user and the address of the repository."""
    from mlflow.tracking.context.registry import resolve_tags

    ours = {"version": __version__, **labels(run)}
    tags = resolve_tags({f"ganctl.{name}": value for name, value in ours.items()})
    return {name: redact(str(value)) for name, value in tags.items()}


@contextmanager
def _quick_failure() -> Iterator[None]:
    """Lets requests to a server that is absent fail after seconds; by MLflow's default they try for four minutes."""
    if _RETRIES in os.environ:
        yield
        return
    os.environ[_RETRIES] = "2"
    try:
        yield
    finally:
        del os.environ[_RETRIES]
