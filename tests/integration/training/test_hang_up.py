"""A closed terminal ends a training with everything saved; what a process was started to ignore stays ignored."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration.training.processes import Process, pid_of_rank, start, wait_for_rows
from training.checkpoint import read_checkpoint

TWO_RANKS = ("--nproc", "2")


def saved_step(run_dir: Path) -> int:
    return read_checkpoint(run_dir / "checkpoints/last.safetensors").step


def test_two_ranks_save_when_their_parent_is_hung_up_twice(tmp_path: Path) -> None:
    """The kernel and the shell both tell of a closed terminal."""
    run_dir = tmp_path / "run"
    process = start(run_dir, *TWO_RANKS)
    wait_for_rows(run_dir, 3, process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    record = json.loads(stdout)
    assert (record["stopped_by"], record["steps"]) == ("SIGHUP", saved_step(run_dir))
    assert f"interrupted by SIGHUP and saved at step {record['steps']}" in stderr


@pytest.mark.parametrize("ignored", [None, signal.SIGHUP])
def test_ranks_of_torchrun_save_when_it_is_hung_up_also_where_nohup_started_it(
    ignored: signal.Signals | None, tmp_path: Path
) -> None:
    """torchrun itself ends on SIGHUP in any case, unless it is told by --signals-to-handle."""
    run_dir = tmp_path / "run"
    process = start(run_dir, torchrun=("--nproc-per-node=2",), ignored=ignored)
    wait_for_rows(run_dir, 3, process)
    process.send_signal(signal.SIGHUP)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert json.loads(stdout)["steps"] == saved_step(run_dir)


def test_two_ranks_go_on_under_nohup_whatever_process_is_hung_up(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, *TWO_RANKS, ignored=signal.SIGHUP)
    wait_for_rows(run_dir, 3, process)
    for pid in (process.pid, pid_of_rank(run_dir, 0), pid_of_rank(run_dir, 1)):
        os.kill(pid, signal.SIGHUP)
    must_go_on(run_dir, process)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_what_was_ignored_at_the_start_stays_ignored(ignored: signal.Signals, tmp_path: Path) -> None:
    """nohup ignores SIGHUP, a script's shell SIGINT for what it starts with `&`."""
    run_dir = tmp_path / "run"
    process = start(run_dir, ignored=ignored)
    wait_for_rows(run_dir, 3, process)
    process.send_signal(ignored)
    must_go_on(run_dir, process)


def must_go_on(run_dir: Path, process: Process) -> None:
    """It trains further, and is ended by SIGTERM as ever."""
    rows = (run_dir / "stats.jsonl").read_text().count("\n")
    wait_for_rows(run_dir, rows + 3, process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["stopped_by"] == "SIGTERM"


@pytest.mark.parametrize("words", [(), TWO_RANKS])
def test_a_closed_terminal_saves_although_nothing_can_be_written_to_it_any_more(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    ours, terminal = os.openpty()
    process = start(run_dir, *words, "--set", "log.refresh=0.01", terminal=terminal)
    os.close(terminal)
    os.set_blocking(ours, False)
    while not (run_dir / "stats.jsonl").exists() or (run_dir / "stats.jsonl").read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.05)
        try:
            os.read(ours, 1 << 20)  # a terminal that nobody reads would fill
        except BlockingIOError:
            continue
    os.close(ours)
    assert process.wait(timeout=120) == 130
    assert f"ends at step {saved_step(run_dir)}: SIGHUP" in (run_dir / "log.txt").read_text()


def test_a_run_outlives_the_readers_of_its_output(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir)
    wait_for_rows(run_dir, 3, process)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130
    assert f"ends at step {saved_step(run_dir)}: SIGTERM" in (run_dir / "log.txt").read_text()
