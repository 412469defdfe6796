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

_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"  # MLflow's own variables
_QUICK = "10"  # seconds for the answer to a small request; MLflow's default is 120
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_MAX_KEY, _MAX_PARAM = 250, 6000  # characters that MLflow accepts


class MLflow(Tracker):
    """Logs parameters, metrics, images and checkpoints to the store and the experiment of MLflow's own variables."""

    key = "mlflow"
    _record = ""  # until there is one

    def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
        import mlflow  # takes a second or more

        self._cleanup.enter_context(_defaults({_RETRIES: "2"}))  # until the end: four minutes for each task otherwise
        with _defaults({_TIMEOUT: _QUICK}):  # not for the upload of checkpoints
            self._client, self._record = mlflow.MlflowClient(), ""
            chosen = os.environ.get("MLFLOW_RUN_ID")
            record_id = record_id or (chosen if chosen != origin else None)
            if record_id is None:
                name = run.run_dir.absolute().name
                record_id = self._client.create_run(_experiment(), run_name=name, tags=_tags(run)).info.run_id
            else:
                self._continue(record_id)
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

    def send_result(self, scores: Mapping[str, float], reason: str, step: int) -> None:
        self.send_scalars(scores, step, time.time())
        self._client.set_tag(self._record, "ganctl.stop_reason", reason)

    def send_checkpoints(self, checkpoints: Mapping[str, Saved]) -> None:
        for name, saved in checkpoints.items():
            self._client.log_artifact(self._record, str(saved.path), "checkpoints")
            self._client.set_tag(self._record, f"ganctl.{name}.step", saved.step)
            self._client.set_tag(self._record, f"ganctl.{name}.sha256", saved.sha256)

    def finish(self, status: Status) -> None:
        if self._record:
            with _defaults({_TIMEOUT: _QUICK}):
                self._client.set_terminated(self._record, _STATUS[status])

    def _continue(self, record_id: str) -> None:
        import mlflow

        try:
            self._client.update_run(record_id, status="RUNNING")
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            found = f"found no record {record_id} in {mlflow.get_tracking_uri()}, expected the one of the resumed run"
            default = "Without it, the store is mlflow.db in the current folder: resume where the run was started."
            raise LookupError(f"{found}. Set MLFLOW_TRACKING_URI to its store. {default}") from error

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
def _defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets those variables of the environment that the user has not set, while the context lasts."""
    unset = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(unset)
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)
