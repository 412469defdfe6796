"""Beside busy programs `train` advises fewer threads."""

import os
import subprocess
import sys

import pytest

from ganctl.training.device.load import CoreLoad, advise_threads
from tests.waiting import wait_for


@pytest.mark.parametrize(
    ("others", "cores", "threads", "advised"),
    [(1.0, 2, 2, 1), (0.7, 2, 2, 1), (2.0, 2, 2, 1), (1.2, 8, 8, 7), (0.3, 2, 2, None), (1.0, 2, 1, None),
     (2.0, 8, 4, None), (0.0, 2, 2, None)],
)  # fmt: skip
def test_advice_leaves_the_busy_cores_to_the_others(
    monkeypatch: pytest.MonkeyPatch, others: float, cores: int, threads: int, advised: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    advice = advise_threads(others, threads)
    assert (advice is None) == (advised is None)
    if advice is not None:
        assert f"OMP_NUM_THREADS={advised} " in advice


def test_another_process_is_load_and_the_own_work_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        load = CoreLoad()
        assert load.of_others() == 0.0, "too early to tell"
        wait_for(lambda: load.of_others() > 0, "the loop is measured", process=busy)
        busy.kill()
