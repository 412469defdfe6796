"""A tracked run that is killed continues its record, and of several ranks only rank 0 records."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import SHORT, Ganctl
from tests.unit.training.tracker_records import TRACKERS, local_store, read_records

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own dependencies

# kills the process at step 47, 7 steps after a checkpoint, when those of step 40 are sent
KILL = """
import os, signal, time
from ganctl import Callback

class Kill(Callback):
    def on_step(self, run):
        if run.step == 47:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
"""
STEPS = [10, 20, 30, 40, 50]


# wandb alone in `make test`: the callbacks share this code, and MLflow takes five seconds to start
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.soak] * (name == "mlflow")) for name in TRACKERS])
def tracker(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f"needs the package: pip install 'ganctl[{request.param}]'")
    return str(request.param)


def settings(*assignments: str) -> list[str]:
    return ["--preset", "conv", *(word for each in (*SHORT, *assignments) for word in ("--set", each))]


@pytest.mark.soak
def test_a_killed_run_continues_its_record_with_every_step_once(
    tracker: str, started_ganctl: Ganctl, tmp_path: Path
) -> None:
    (tmp_path / "my_callbacks.py").write_text(KILL)
    environment = {**os.environ, **local_store(tmp_path), "OMP_NUM_THREADS": "1"}
    words = ("train", "--run-dir", "run", "--callback", tracker)
    extra = ("evaluation.every=640 images",)  # every 20 steps: the losses of step 10, 30, 50 are between checkpoints
    kill = started_ganctl(*words, *settings(*extra), "--callback", "my_callbacks:Kill", env=environment)
    assert kill.returncode == -signal.SIGKILL, kill.stderr
    resumed = started_ganctl(*words, "--resume", "auto", "--max-steps", 50, env=environment)
    assert resumed.returncode == 0, resumed.stderr
    (record,) = read_records(tracker, tmp_path).values()
    assert [step for step, _ in record.series["train/loss_d"]] == STEPS
    assert [step for step, _ in record.series["validation/fd"]] == record.image_steps == [20, 40, 50]
    assert record.status == "FINISHED"


@pytest.mark.soak
def test_of_several_ranks_one_records(tracker: str, started_ganctl: Ganctl, tmp_path: Path) -> None:
    environment = {**os.environ, **local_store(tmp_path), "OMP_NUM_THREADS": "1"}
    words = ("--run-dir", "run", "--callback", tracker, "--nproc", 2, "--max-steps", 20)
    done = started_ganctl("train", *settings(), *words, env=environment)
    assert done.returncode == 0, done.stderr
    (record,) = read_records(tracker, tmp_path).values()
    assert [step for step, _ in record.series["train/loss_d"]] == [10, 20]
    assert record.image_steps == [10, 20]


@pytest.mark.soak
def test_stdout_has_only_the_object_of_json(tracker: str, started_ganctl: Ganctl, tmp_path: Path) -> None:
    store = {name: value for name, value in local_store(tmp_path).items() if name != "WANDB_SILENT"}
    environment = {**os.environ, **store, "OMP_NUM_THREADS": "1"}
    words = ("--run-dir", "run", "--callback", tracker, "--max-steps", 10, "--json")
    done = started_ganctl("train", *settings(), *words, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
