"""MLflow and Weights & Biases have the settings, scores, images and checkpoints of a run, each once."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.callbacks.mlflow import metric_key
from ganctl.training.callbacks.outbox import Outbox
from ganctl.training.checkpoint.format import read_checkpoint, weights_digest
from ganctl.training.errors import ConfigError
from ganctl.training.loop import session
from ganctl.training.loop.session import Session, load_callback
from tests.conftest import SHORT
from tests.unit.training.failing import FailOnce
from tests.unit.training.tracker_records import TRACKERS, Record, read_records, use_local_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own dependencies


@pytest.fixture(scope="module")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty database of MLflow, which takes seconds to create."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow = pytest.importorskip("mlflow", reason="needs the package mlflow: pip install 'ganctl[mlflow]'")
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


# wandb alone in `make test`: what both share is tested with it, and MLflow takes five seconds to start
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.soak] * (name == "mlflow")) for name in TRACKERS])
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The short name of a tracker that writes below `tmp_path`."""
    name = str(request.param)
    use_local_store(name, tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)  # MLflow puts files beside a local database into `mlruns`
    if name == "mlflow":
        (tmp_path / "mlflow.db").write_bytes(request.getfixturevalue("mlflow_database"))
    yield name
    if name == "wandb":
        pytest.importorskip("wandb").teardown()  # it reads its variables once in a process


def train(run_dir: Path, *callbacks: str | Callback, steps: int = 50, resume: str | None = None, lr: str = "") -> None:
    extra = (f"optimizer.lr={lr}",) if lr else ()
    assignments = () if resume else (*SHORT, *extra)
    Session(assignments=assignments, preset=None if resume else "conv", run_dir=run_dir, resume=resume).build(
        max_steps=steps, callbacks=callbacks
    ).fit()


def only_record(tracker: str, folder: Path) -> Record:
    (record,) = read_records(tracker, folder).values()
    return record


def steps(record: Record, name: str) -> list[int]:
    return [step for step, _ in record.series[name]]


def test_a_record_has_settings_scores_images_and_the_checkpoints_with_their_digests(
    tracker: str, tmp_path: Path
) -> None:
    train(tmp_path / "run", tracker)
    record = only_record(tracker, tmp_path)
    assert (record.settings["model.base_channels"], record.settings["preset"]) == ("8", "conv")
    assert steps(record, "train/loss_d") == [10, 20, 30, 40, 50]
    assert steps(record, "validation/fd") == record.image_steps == [10, 20, 30, 40, 50]
    assert dict(record.series["images"])[30] == 30 * 32
    logged = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss_d"]) for line in logged if "loss_d" in line]
    assert record.series["train/loss_d"] == losses
    assert {"test/fd", "train/images_per_second"} <= record.series.keys()
    for name in ("best", "last"):
        assert record.digests[name] == read_checkpoint(tmp_path / f"run/checkpoints/{name}.safetensors").sha256
    assert record.files == {"best.safetensors", "last.safetensors"}
    assert record.status == "FINISHED"


def test_a_resumed_run_continues_its_record(tracker: str, tmp_path: Path) -> None:
    train(tmp_path / "run", tracker, steps=25)
    train(tmp_path / "run", tracker, resume="auto")
    record = only_record(tracker, tmp_path)
    assert steps(record, "train/loss_d") == [10, 20, 30, 40, 50]
    assert record.image_steps == [10, 20, 25, 30, 40, 50], "25: the evaluation at the limit"
    assert record.status == "FINISHED"


def test_steps_that_are_trained_again_are_not_recorded_again(tracker: str, tmp_path: Path) -> None:
    train(tmp_path / "run", tracker, steps=30)
    best = tmp_path / "run/checkpoints/step-00000020.safetensors"
    train(tmp_path / "run", tracker, resume=str(best))
    record = only_record(tracker, tmp_path)
    assert steps(record, "train/loss_d") == steps(record, "validation/fd") == record.image_steps == [10, 20, 30, 40, 50]


@pytest.mark.soak
def test_a_run_that_continues_in_another_folder_gets_a_record_of_its_own(tracker: str, tmp_path: Path) -> None:
    train(tmp_path / "run", tracker, steps=20)
    (first,) = read_records(tracker, tmp_path)
    checkpoint = tmp_path / "run/checkpoints/last.safetensors"
    Session(run_dir=tmp_path / "branch", resume=str(checkpoint)).build(callbacks=[tracker], max_steps=40).fit()
    records = read_records(tracker, tmp_path)
    assert steps(records.pop(first), "train/loss_d") == [10, 20]
    (branch,) = records.values()
    assert steps(branch, "train/loss_d") == [30, 40]


def test_a_run_that_fails_is_recorded_as_failed(tracker: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="step 23"):
        train(tmp_path / "run", tracker, FailOnce(23))
    record = only_record(tracker, tmp_path)
    assert record.status == "FAILED"
    assert steps(record, "train/loss_d") == [10, 20]


def test_a_tracker_does_not_change_what_is_trained(tracker: str, tmp_path: Path) -> None:
    digests = []
    for callbacks in ((), (tracker,)):
        train(tmp_path / f"run{len(callbacks)}", *callbacks, steps=20)
        state = read_checkpoint(tmp_path / f"run{len(callbacks)}/checkpoints/last.safetensors").state
        parts = {name: state["networks"][name] for name in ("generator", "discriminator", "ema")}
        parts["random states"] = state["torch_rng"][0]
        digests.append({name: weights_digest(tensors) for name, tensors in parts.items()})
    assert digests[0] == digests[1]


class DropMetrics(Callback):
    """Deletes the table of MLflow's metrics after step 15."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def on_step(self, run: Run) -> None:
        if run.step == 15:
            time.sleep(0.5)  # until step 10 is written
            with sqlite3.connect(self._database) as connection:
                connection.execute("DROP TABLE metrics")


@pytest.mark.parametrize("tracker", ["mlflow"], indirect=True)
@pytest.mark.soak
def test_a_store_that_fails_while_training_costs_one_warning(
    tracker: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "run", tracker, DropMetrics(tmp_path / "mlflow.db"))
    messages = [each.message for each in caplog.records if each.message.startswith("mlflow: part")]
    assert len(messages) == 1
    assert "metrics" in messages[0]
    assert read_checkpoint(tmp_path / "run/checkpoints/last.safetensors").step == 50


@pytest.mark.parametrize(
    ("tracker", "variable", "value"),
    [
        ("mlflow", "MLFLOW_TRACKING_URI", "nowhere://x"),
        ("mlflow", "MLFLOW_TRACKING_URI", "http://127.0.0.1:9"),
        ("mlflow", "MLFLOW_EXPERIMENT_ID", "4711"),
        ("wandb", "WANDB_MODE", "sometimes"),
    ],
    indirect=["tracker"],
)
def test_a_wrong_configuration_of_a_tracker_ends_the_run_before_its_first_step(
    tracker: str, variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"--callback {tracker}: the record cannot be opened"):
        train(tmp_path / "run", tracker)
    assert not list((tmp_path / "run/checkpoints").iterdir())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_names_the_extra_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()  # wandb leaves such a folder where it was used
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    with pytest.raises(ConfigError, match=rf"pip install 'ganctl\[{name}\]'") as error:
        load_callback(name)
    assert error.value.exit_code == 3


def test_an_unknown_callback_lists_the_short_names() -> None:
    with pytest.raises(ConfigError, match=r"mlflo: unknown callback, expected mlflow, wandb or module:Name.*mlflow\?"):
        session.load_callback("mlflo")


def test_training_does_not_wait_for_a_slow_server() -> None:
    outbox, done = Outbox("test"), []

    def send(number: int) -> None:
        time.sleep(0.2)
        done.append(number)

    start = time.monotonic()
    for number in range(3):
        outbox.put(partial(send, number))
    assert time.monotonic() - start < 0.1
    assert outbox.close(lambda: None, 10)
    assert done == [0, 1, 2]


def test_a_server_that_does_not_answer_delays_the_end_by_the_limit_only() -> None:
    outbox, answer = Outbox("test"), threading.Event()

    def wait() -> None:
        answer.wait()

    outbox.put(wait)
    start = time.monotonic()
    assert not outbox.close(lambda: None, 0.3)
    assert time.monotonic() - start < 2
    answer.set()


def test_class_names_become_keys_that_mlflow_accepts() -> None:
    validation = pytest.importorskip("mlflow.utils.validation", reason="needs the package mlflow")
    names = ["cat", "日本", "😀", "a b", "..", ".", "x/../y", "a:b", "\udcff", "a/", "100 %", "w" * 400]
    keys = [metric_key(f"validation_class_accuracy/{name}") for name in names]
    for key in keys:
        validation._validate_metric_name(key)  # noqa: SLF001  # what the store calls
    assert len({*keys}) == len(names)
    assert keys[2] == "validation_class_accuracy/u1f600"
