"""Slow, absent and failing trackers, and records that must not be continued."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ganctl.signals import Terminated
from ganctl.training.callbacks import outbox as outbox_module
from ganctl.training.callbacks.base import Run
from ganctl.training.callbacks.outbox import Outbox
from ganctl.training.callbacks.tracker import Saved, Status, Tracker
from ganctl.training.errors import ConfigError
from ganctl.training.loop.session import Session
from tests.conftest import launch
from tests.unit.training.tracker_records import use_local_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own dependencies


class ListTracker(Tracker):
    """Records calls in a list; its package is one that is always installed."""

    key = "json"

    def __init__(self, records: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self._records = records
        self.answer = threading.Event()  # of the server, to the final scores
        self.answer.set()

    def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
        record = record_id or f"record {sum(entry[0] == 'open' for entry in self._records)}"
        self._records.append(("open", record, origin))
        return record

    def send_scalars(self, scalars: Mapping[str, float], step: int, seconds: float) -> None:
        self._records.append(("scalars", step))

    def send_image(self, name: str, picture: object, step: int) -> None:
        pass

    def send_result(self, scores: Mapping[str, float], reason: str, step: int) -> None:
        self._records.append(("result", reason))
        self.answer.wait()

    def send_checkpoints(self, checkpoints: Mapping[str, Saved]) -> None:
        self._records.append(("checkpoints", *checkpoints))

    def finish(self, status: Status) -> None:
        self._records.append(("finish", status))


Records = list[tuple[Any, ...]]


def opened(records: Records) -> Records:
    return [entry[1:] for entry in records if entry[0] == "open"]


def train_and_resume_before_the_last_step(run_dir: Path, *assignments: str) -> Records:
    """Trains 20 steps, resumes from the checkpoint of step 10, and returns what the tracker got."""
    records: Records = []
    launch(run_dir).build(max_steps=20, callbacks=[ListTracker(records)]).fit()
    checkpoint = str(run_dir / "checkpoints/step-00000010.safetensors")
    Session(resume=checkpoint, assignments=assignments, allow_changes=True).build(
        max_steps=20, callbacks=[ListTracker(records)]
    ).fit()
    return records


def test_steps_trained_again_with_another_setting_are_in_a_new_record(tmp_path: Path) -> None:
    records = train_and_resume_before_the_last_step(tmp_path / "run", "optimizer.lr=0.01")
    assert opened(records) == [("record 0", None), ("record 1", "record 0")]
    assert [entry[1] for entry in records if entry[0] == "scalars"] == [10, 10, 20, 20, 20, 20]


def test_a_setting_of_the_output_continues_the_record(tmp_path: Path) -> None:
    records = train_and_resume_before_the_last_step(tmp_path / "run", "log.refresh=2")
    assert opened(records) == [("record 0", None), ("record 0", None)]


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '{"id": "record 0", "sent": 3}', '{"id": "record 0", "sent": {"a": []}}', "\xff", ""]
)
def test_a_damaged_list_of_sent_steps_starts_a_new_record(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records: Records = []
    launch(tmp_path / "run").build(max_steps=1, callbacks=[ListTracker(records)]).fit()
    (tmp_path / "run/json.json").write_bytes(content.encode("latin-1"))
    launch(tmp_path / "run", resume="auto").build(max_steps=2, callbacks=[ListTracker(records)]).fit()
    assert opened(records) == [("record 0", None), ("record 1", "record 0")]
    assert "json.json does not say which steps" in caplog.text
    assert json.loads((tmp_path / "run/json.json").read_text())["id"] == "record 1"


def test_a_checkpoint_that_cannot_be_read_costs_neither_the_scores_nor_the_end_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records: Records = []

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("ganctl.training.callbacks.tracker.read_checkpoint", fail)
    launch(tmp_path / "run").build(max_steps=1, callbacks=[ListTracker(records)]).fit()
    assert records[-2:] == [("result", "max-steps"), ("finish", "finished")]
    assert "the checkpoints were not sent" in caplog.text


@pytest.mark.parametrize("when", ["while it trains", pytest.param("while it waits", marks=pytest.mark.soak)])
def test_a_signal_shortens_the_last_wait_and_leaves_the_checkpoints_out(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_SHORT_WAIT", 0.5)
    records: Records = []

    class Signal(ListTracker):
        key = "json"

        def on_step(self, run: Run) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    class SignalLater(ListTracker):
        key = "json"

        def send_result(self, scores: Mapping[str, float], reason: str, step: int) -> None:
            records.append(("result", reason))
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            self.answer.wait()

    tracker = (Signal if when == "while it trains" else SignalLater)(records)
    tracker.answer.clear()
    trainer = launch(tmp_path / "run").build(max_steps=1, callbacks=[tracker])
    start = time.monotonic()
    result = trainer.fit()
    assert time.monotonic() - start < 20
    assert result.stop_reason == ("SIGTERM" if when == "while it trains" else "max-steps")
    tracker.answer.set()
    time.sleep(0.3)
    assert ("result", result.stop_reason) in records
    assert not [entry for entry in records if entry[0] == "checkpoints"]


def test_a_record_whose_settings_cannot_be_sent_is_finished(tmp_path: Path) -> None:
    records: Records = []

    class Refused(ListTracker):
        key = "json"

        def open(self, run: Run, settings: Mapping[str, Any], record_id: str | None, origin: str | None) -> str:
            super().open(run, settings, record_id, origin)
            raise ValueError("settings refused")

    with pytest.raises(ConfigError, match="settings refused"):
        launch(tmp_path / "run").build(max_steps=1, callbacks=[Refused(records)]).fit()
    assert records[-1] == ("finish", "failed")


@pytest.mark.soak  # MLflow itself
def test_mlflow_finishes_a_record_whose_settings_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store("mlflow", tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    from mlflow import MlflowClient

    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("settings refused")

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    with pytest.raises(ConfigError, match="settings refused"):
        launch(tmp_path / "run").build(max_steps=1, callbacks=["mlflow"]).fit()
    (record,) = MlflowClient().search_runs(["0"])
    assert record.info.status == "FAILED"


@pytest.mark.soak  # MLflow itself
def test_a_resumed_run_whose_record_is_in_another_store_names_the_store_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_store("mlflow", tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    launch(tmp_path / "run").build(max_steps=1, callbacks=["mlflow"]).fit()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(ConfigError, match=r"found no record \w+ in sqlite:///.*other\.db, expected.*Set MLFLOW_TRACK"):
        launch(tmp_path / "run", resume="auto").build(max_steps=2, callbacks=["mlflow"]).fit()


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The address of a server that accepts connections and never answers, for MLflow."""
    use_local_store("mlflow", tmp_path, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


@pytest.mark.usefixtures("silent_server")
@pytest.mark.soak
def test_a_server_that_never_answers_delays_the_start_by_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganctl.training.callbacks.mlflow._QUICK", "1")
    trainer = launch(tmp_path / "run").build(max_steps=1, callbacks=["mlflow"])
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"the record cannot be opened.*timed out"):
        trainer.fit()
    assert time.monotonic() - start < 30
    assert not {"MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"} & os.environ.keys()


@pytest.mark.usefixtures("silent_server")
def test_a_signal_ends_a_start_that_waits_for_a_server(tmp_path: Path) -> None:
    import mlflow  # noqa: F401  # before the clock runs

    trainer = launch(tmp_path / "run").build(max_steps=1, callbacks=["mlflow"])
    former = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(3, os.kill, (os.getpid(), signal.SIGTERM))
    start = time.monotonic()
    timer.start()
    with pytest.raises(Terminated, match="SIGTERM"):
        trainer.fit()
    assert time.monotonic() - start < 9
    assert signal.getsignal(signal.SIGTERM) is former


def test_tasks_do_not_pile_up_while_a_server_is_absent() -> None:
    outbox, tried = Outbox("test"), []
    failed, go_on = threading.Event(), threading.Event()

    def fail() -> None:
        tried.append(1)
        if len(tried) == 2:
            failed.set()
            go_on.wait(10)
        raise OSError("no server")

    outbox.put(fail)
    outbox.put(fail)
    assert failed.wait(10)
    for _ in range(500):
        outbox.put(fail)
    go_on.set()
    assert not outbox.close(fail, 10)
    assert len(tried) < 20
    assert any("left out" in str(error) for error in outbox.errors)


def test_a_server_that_does_not_answer_after_a_failure_delays_the_end_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_SHORT_WAIT", 0.3)
    outbox, answer = Outbox("test"), threading.Event()

    def fail() -> None:
        raise OSError("no server")

    def wait() -> None:
        answer.wait(20)

    outbox.put(fail)
    outbox.put(wait)
    time.sleep(0.2)
    start = time.monotonic()
    assert not outbox.close(lambda: None, 10)
    assert time.monotonic() - start < 3
    answer.set()


def test_a_task_that_exits_counts_as_not_sent() -> None:
    outbox = Outbox("test")

    def leave() -> None:
        raise SystemExit(1)

    outbox.put(leave)
    assert not outbox.close(lambda: None, 10)
    assert [type(error) for error in outbox.errors] == [SystemExit]
