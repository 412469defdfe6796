"""The number of cores follows the affinity mask and the CPU quota of a container."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ganctl import processes
from ganctl.processes import available_cores, cpu_quota
from ganctl.serving.hosts.workers import default_workers

V2, V1 = "0::/a/b\n", "4:memory:/a/b\n1:cpu,cpuacct:/a/b\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (V2, {"cpu.max": "max 100000"}, math.inf),
        (V2, {"cpu.max": "150000 100000"}, 1.5),  # a container that sees its own group as the root
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        (V2, {"a/b/cpu.max": "20000 10000", "a/cpu.max": "400000 100000"}, 2.0),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "150000", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, 1.5),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "25000", "cpu,cpuacct/cpu.cfs_period_us": "50000"}, 0.5),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, math.inf),
        (V1, {"memory/a/b/cpu.max": "50000 100000"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_the_smallest_quota_of_a_control_group_and_its_parents_counts(
    tmp_path: Path, membership: str | None, files: Mapping[str, str], expected: float
) -> None:
    listed, root = tmp_path / "cgroup", tmp_path / "fs"
    if membership is not None:
        listed.write_text(membership)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    assert cpu_quota(listed, root) == expected


@pytest.mark.parametrize(
    ("quota", "cores", "workers"), [(math.inf, 16, 8), (1.5, 2, 2), (2.0, 2, 2), (0.5, 1, 1), (32.0, 16, 8)]
)
def test_a_quota_limits_the_cores_and_is_rounded_up(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(processes, "cpu_quota", lambda: quota)
    assert available_cores() == cores
    assert default_workers() == workers
