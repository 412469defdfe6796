"""Two processes in one run folder: the second training is refused; a killed one leaves the folder unlocked."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.conftest import Ganctl
from tests.held import Hold
from tests.integration.training.processes import finish, start
from tests.waiting import wait_for

LIMIT = ("--max-steps", "40")
HELD = 30  # after the evaluation of step 20


def test_during_a_training_a_second_one_is_refused_and_commands_that_read_the_folder_work(
    ganctl: Ganctl, tmp_path: Path
) -> None:
    run_dir, hold = tmp_path / "run", Hold(tmp_path / "hold", HELD)
    first = start(run_dir, *LIMIT, hold=hold)
    hold.wait(first)
    for words in ((), ("--nproc", "2", "--resume", "auto")):
        second = start(run_dir, *LIMIT, *words)
        stdout, stderr = finish(second)
        assert second.returncode == 2, stderr
        record = json.loads(stdout)
        assert record["exit_code"] == 2
        assert re.search(rf"{re.escape(str(run_dir))}: .*\b{first.pid}\b", record["error"])
    dry_run = start(run_dir, "--resume", "auto", "--dry-run")
    assert json.loads(finish(dry_run)[0])["first_step"] == 20
    assert ganctl("inspect", run_dir).returncode == 0
    assert ganctl("sample", run_dir, "--out", tmp_path / "digits.png").returncode == 0
    hold.release()
    stdout, stderr = finish(first)
    assert first.returncode == 0, stderr
    assert json.loads(stdout)["steps"] == 40


@pytest.mark.soak
def test_a_killed_training_unlocks_its_folder_even_while_its_data_loaders_are_alive(tmp_path: Path) -> None:
    run_dir, hold = tmp_path / "run", Hold(tmp_path / "hold", 5)
    loader = ("--set", "data.on_device=false", "--set", "data.num_workers=1")
    killed = start(run_dir, *LIMIT, *loader, hold=hold)
    hold.wait(killed)
    loaders = wait_for(lambda: children(killed.pid), "the loader process is alive", process=killed)
    for pid in loaders:
        os.kill(pid, signal.SIGSTOP)  # a running loader would notice the end of its parent
    try:
        killed.kill()
        killed.wait()
        again = start(run_dir, *LIMIT, *loader)
        stdout, stderr = finish(again)
        assert again.returncode == 0, stderr
        assert json.loads(stdout)["steps"] == 40
        assert re.search(rf"{re.escape(str(run_dir))}: .*\blog\.old\.txt\b", stderr), (
            "the old log is kept, and reported"
        )
        assert all(Path(f"/proc/{pid}").exists() for pid in loaders), "the loaders were alive until now"
    finally:
        for pid in loaders:
            os.kill(pid, signal.SIGKILL)
        killed.communicate()


def children(pid: int) -> list[int]:
    """Returns the process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.soak
def test_of_two_trainings_of_two_ranks_that_start_at_once_in_one_folder_one_trains_and_one_is_refused(
    tmp_path: Path,
) -> None:
    processes = [start(tmp_path / "run", "--nproc", "2", "--max-steps", "3") for _ in range(2)]
    results = [(*finish(process), process.returncode) for process in processes]
    assert sorted(code for _, _, code in results) == [0, 2], results
    records = {code: json.loads(stdout) for stdout, _, code in results}
    assert records[0]["steps"] == 3
    assert str(tmp_path / "run") in records[2]["error"]
    assert not (tmp_path / "run/.ranks").exists()
