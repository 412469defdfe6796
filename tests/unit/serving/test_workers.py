"""The default number of workers follows the cores and the container's CPU limit."""

import os
from pathlib import Path

import pytest

from ganctl.serving.hosts.workers import default_workers


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), (None, 8)]
)
def test_one_worker_per_core_within_the_containers_limit(tmp_path: Path, text: str | None, expected: int) -> None:
    quota = tmp_path / "cpu.max"
    if text is not None:
        quota.write_text(f"{text}\n")
    assert default_workers(quota) == expected
