"""Two processes that are to train in one folder: the second is refused; a killed one leaves the folder free."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import Ganctl
from tests.held import Hold
from tests.integration.training.processes import finish, start
from tests.waiting import wait_for

LIMIT = ("--max-steps", "40")
HELD = 30  # after the evaluation of step 20


def test_a_second_training_is_refused_and_reading_is_not(ganctl: Ganctl, tmp_path: Path) -> None:
    run_dir, hold = tmp_path / "run", Hold(tmp_path / "hold", HELD)
    first = start(run_dir, *LIMIT, hold=hold)
    hold.wait(first)
    for words in ((), ("--nproc", "2", "--resume", "auto")):
        second = start(run_dir, *LIMIT, *words)
        stdout, stderr = finish(second)
        assert second.returncode == 2, stderr
        record = json.loads(stdout)
        assert record["exit_code"] == 2
        assert f"process {first.pid} on " in record["error"]
    reading = start(run_dir, "--resume", "auto", "--dry-run")
    assert json.loads(finish(reading)[0])["first_step"] == 20
    assert ganctl("inspect", run_dir).returncode == 0
    assert ganctl("sample", run_dir, "--out", tmp_path / "digits.png").returncode == 0
    hold.release()
    stdout, stderr = finish(first)
    assert first.returncode == 0, stderr
    assert json.loads(stdout)["steps"] == 40


def test_a_killed_training_leaves_its_folder_free_although_its_loaders_live_on(tmp_path: Path) -> None:
    run_dir, hold = tmp_path / "run", Hold(tmp_path / "hold", 5)
    loader = ("--set", "data.on_device=false", "--set", "data.num_workers=1")
    killed = start(run_dir, *LIMIT, *loader, hold=hold)
    hold.wait(killed)
    loaders = wait_for(lambda: children(killed.pid), "the loader's process lives", process=killed)
    for pid in loaders:
        os.kill(pid, signal.SIGSTOP)  # or it would notice soon
    try:
        killed.kill()
        killed.wait()
        again = start(run_dir, *LIMIT, *loader)
        stdout, stderr = finish(again)
        assert again.returncode == 0, stderr
        assert json.loads(stdout)["steps"] == 40
        assert "an earlier start left no checkpoint" in stderr
        assert all(Path(f"/proc/{pid}").exists() for pid in loaders), "they did live on"
    finally:
        for pid in loaders:
            os.kill(pid, signal.SIGKILL)
        killed.communicate()


def children(pid: int) -> list[int]:
    """The living children of a process's main thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.soak
def test_of_two_that_start_at_once_as_two_ranks_each_one_trains_to_its_end(tmp_path: Path) -> None:
    both = [start(tmp_path / "run", "--nproc", "2", "--max-steps", "3") for _ in range(2)]
    ended = [(*finish(process), process.returncode) for process in both]
    assert sorted(code for _, _, code in ended) == [0, 2], ended
    records = {code: json.loads(stdout) for stdout, _, code in ended}
    assert records[0]["steps"] == 3
    assert "--run-dir" in records[2]["error"]
    assert not (tmp_path / "run/.ranks").exists()
