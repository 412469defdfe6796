"""Processes on the same cores take turns: one at a time, in the order of their requests, whatever another one does."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from ganctl.training.checkpoint.format import read_checkpoint, weights_digest
from ganctl.training.checkpoint.run_dir import find_checkpoint
from ganctl.training.device import turns
from ganctl.training.device.turns import Turns, in_turns, next_turn, take_turns
from ganctl.training.errors import ConfigError
from tests.conftest import train_small
from tests.waiting import wait_for

# A turn lasts until the next call, and calls come from stdin, one a line; each reply is a line.
_PROCESS = """
import json, sys
from pathlib import Path
from ganctl.training.device.turns import Turns
file, cores, threads, patience = json.loads(sys.argv[1])
turns = Turns(Path(file), cores, threads, seconds=0, patience=patience)
for call in sys.stdin:
    getattr(turns, call.strip())()
    print(flush=True)
"""
# Takes turn after turn, and writes a dot for each.
_BESIDE = """
import sys, time
from pathlib import Path
from ganctl.processes import core_numbers
from ganctl.training.device.turns import Turns
turns = Turns(Path(sys.argv[1]), core_numbers(), 1000, seconds=0)
while True:
    turns.next()
    print(end=".", flush=True)
    time.sleep(0.001)
"""


class Process:
    """A process that takes turns when it is told."""

    def __init__(self, file: Path, cores: list[int], threads: int, patience: float) -> None:
        arguments = json.dumps([str(file), cores, threads, patience])
        command = [sys.executable, "-c", _PROCESS, arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def call(self, name: str) -> None:
        """Starts a call."""
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)

    def returned(self) -> None:
        """Waits until the call returns."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "\n", self.process.communicate()

    def take(self) -> None:
        self.call("next")
        self.returned()

    def end(self) -> None:
        self.call("end")
        self.returned()

    def queue(self) -> None:
        """Starts `next`, and waits until the process is in the queue."""
        self.call("next")
        wait_for(self.queues, "the process waits", process=self.process)

    def queues(self) -> bool:
        """Returns whether the process holds or awaits a lock of the queue, the first bytes of the file."""
        rows = [line.replace("->", "").split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(row[4] == str(self.process.pid) and int(row[6]) < 1000 for row in rows)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def start(cores: list[int], threads: int, patience: float = 1000.0) -> Process:
        started.append(Process(tmp_path / "turns", cores, threads, patience))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_three_processes_get_turns_in_the_order_of_their_requests_and_none_has_two_in_a_row(start: Start) -> None:
    first, second, third = (start([0, 1], 2) for _ in range(3))
    first.take()
    second.queue()
    third.queue()
    first.call("next")  # its turn is over, and it wants another
    second.returned()
    wait_for(first.queues, "the first process waits again", process=first.process)
    second.end()
    third.returned()
    assert first.queues()
    third.end()
    first.returned()


def test_a_killed_process_frees_its_cores(start: Start) -> None:
    first, second = start([0, 1], 2), start([0, 1], 2)
    first.take()
    second.queue()
    first.process.kill()
    second.returned()


def test_a_stopped_process_delays_another_by_a_limit_once_and_then_takes_turns_with_it(start: Start) -> None:
    first, second = start([0, 1], 2), start([0, 1], 2, patience=0.1)
    first.take()
    first.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        second.take()
    assert second.queues(), "a turn still waits for the cores"
    first.process.send_signal(signal.SIGCONT)
    first.end()
    wait_for(lambda: not second.queues(), "the second process has its turn", process=second.process)
    first.queue()
    second.end()
    first.returned()
    assert second.process.communicate()[1].count("this one goes on beside it") == 1


def test_processes_without_a_common_core_never_wait(start: Start) -> None:
    left, right = start([0, 1], 2), start([2, 3], 2)
    left.take()
    right.take()


def test_processes_whose_threads_fit_on_the_cores_run_at_once_and_a_larger_one_gets_its_turn(start: Start) -> None:
    small, other, large, late = start([0, 1], 1), start([0, 1], 1), start([0, 1], 2), start([0, 1], 1)
    small.take()
    other.take()
    large.queue()
    other.end()
    late.queue()  # a core is free; but the large process needs both, and came first
    small.end()
    large.returned()
    large.end()
    late.returned()


def test_cores_that_overlap_are_shared(start: Start) -> None:
    left, right = start([0, 1], 2), start([1, 2], 2)
    left.take()
    right.queue()
    left.end()
    right.returned()


def test_a_run_beside_another_process_waits_for_turns_and_has_the_same_bits(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    class ShortTurns(Turns):
        def __init__(self, file: Path, cores: Collection[int], threads: int) -> None:
            super().__init__(file, cores, threads, seconds=0.0, patience=1000.0)

        def _wait(self) -> None:
            waits.append(self)
            super()._wait()

    file, dots = tmp_path / "turns", tmp_path / "dots"
    monkeypatch.setattr(turns, "turns_file", lambda: file)
    monkeypatch.setattr(turns, "Turns", ShortTurns)
    monkeypatch.setenv(turns.VARIABLE, "on")
    with dots.open("w") as stdout, subprocess.Popen([sys.executable, "-c", _BESIDE, str(file)], stdout=stdout) as other:
        wait_for(dots.read_text, "the other process has had a turn", process=other)
        beside = train_small(tmp_path / "run")
        other.kill()
    assert waits
    ends = [read_checkpoint(find_checkpoint(run)).state["networks"] for run in (small_run, beside)]
    for name in ("generator", "discriminator", "ema"):
        assert len({weights_digest(end[name]) for end in ends}) == 1


def test_off_means_no_turns_and_another_value_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "turns"
    monkeypatch.setattr(turns, "turns_file", lambda: file)
    for value, created in (("off", False), ("on", True)):
        monkeypatch.setenv(turns.VARIABLE, value)
        with take_turns(1):
            assert list(in_turns([1, 2])) == [1, 2]
        assert file.exists() == created
    monkeypatch.setenv(turns.VARIABLE, "maybe")
    with pytest.raises(ConfigError, match=r"GANCTL_TURNS: found 'maybe', expected on or off"), take_turns(1):
        pass


def test_a_file_that_cannot_be_used_means_no_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv(turns.VARIABLE, "on")
    for name in ("link", "absent/turns"):
        monkeypatch.setattr(turns, "turns_file", lambda file=tmp_path / name: file)
        with take_turns(1):
            next_turn()
        assert "no turns with other processes: [Errno" in caplog.messages[-1]
    assert not (tmp_path / "elsewhere").exists()
