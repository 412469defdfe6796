"""Reads the records of MLflow and of Weights & Biases back, in one form for both."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TRACKERS = ("mlflow", "wandb")


@dataclass
class Record:
    """The record of one run, as read from a tracker's own store."""

    settings: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    image_steps: list[int] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # checkpoint → SHA-256
    files: set[str] = field(default_factory=set)
    status: str = ""

    def add(self, name: str, step: int, value: float) -> None:
        self.series.setdefault(name, []).append((step, value))


def use_local_store(tracker: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a tracker write below `folder`; skips the test if its package is not installed."""
    pytest.importorskip(tracker, reason=f"needs the package {tracker}: pip install 'ganctl[{tracker}]'")
    for name, value in local_store(folder).items():
        monkeypatch.setenv(name, value)


def local_store(folder: Path) -> dict[str, str]:
    """Variables by which both trackers write below `folder`."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "WANDB_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder / "wandb-data"),
        "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(folder / "wandb-config"),
        "WANDB_SILENT": "true",
    }


def read_records(tracker: str, folder: Path) -> dict[str, Record]:
    """Returns the records below `folder` by their ids."""
    return _read_mlflow(folder) if tracker == "mlflow" else _read_wandb(folder)


def _read_mlflow(folder: Path) -> dict[str, Record]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    records = {}
    for run in client.search_runs([each.experiment_id for each in client.search_experiments()]):
        identity = run.info.run_id
        record = records[identity] = Record(run.data.params, status=run.info.status)
        for name in run.data.metrics:
            for metric in client.get_metric_history(identity, name):
                record.add(name, metric.step, metric.value)
        images = [Path(item.path).name for item in client.list_artifacts(identity, "images")]
        found = [re.search(r"[+%]step[+%](\d+).*\.png$", name) for name in images]
        record.image_steps = sorted(int(match[1]) for match in found if match)
        record.files = {Path(item.path).name for item in client.list_artifacts(identity, "checkpoints")}
        digests = {name: run.data.tags.get(f"ganctl.{name}.sha256") for name in ("best", "last")}
        record.digests = {name: digest for name, digest in digests.items() if digest}
    return records


def _read_wandb(folder: Path) -> dict[str, Record]:
    """Joins the files of one id in the order of their starts, as `wandb sync` does."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record as Message

    wandb.teardown()  # its process writes the end of a file after `finish`
    records: dict[str, Record] = {}
    for path in sorted(folder.glob("wandb/*-run-*/run-*.wandb")):
        record = records.setdefault(path.stem.removeprefix("run-"), Record())
        record.status = "RUNNING"
        for content in _read_log(path.read_bytes()):
            message = Message.FromString(content)
            for item in message.config.update if message.HasField("config") else ():
                record.settings[item.key] = str(json.loads(item.value_json))
            if message.HasField("history"):
                _add_history(record, message.history)
            if message.HasField("artifact"):
                record.files = {entry.path for entry in message.artifact.manifest.contents}
                metadata = json.loads(message.artifact.metadata)
                record.digests = {name: saved["sha256"] for name, saved in metadata.items()}
            if message.HasField("exit"):
                record.status = "FAILED" if message.exit.exit_code else "FINISHED"
            for item in message.summary.update if message.HasField("summary") else ():
                if item.key.startswith(("test/", "val/")):
                    record.series[item.key] = [(0, json.loads(item.value_json))]
    return records


def _add_history(record: Record, history: Any) -> None:
    values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
    for name, value in values.items():
        if name == "fixed latents/path":
            record.image_steps.append(values["step"])
        elif isinstance(value, float | int) and not name.startswith(("_", "step", "fixed latents")):
            record.add(name, values["step"], value)


def _read_log(content: bytes) -> Iterator[bytes]:
    """Yields the messages of a file of wandb: LevelDB's log format after a header of 7 bytes."""
    position, message = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # the end of a block is padding
            position += left
            continue
        length, kind = struct.unpack("<4xHB", content[position : position + 7])
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last
            yield message
            message = b""
