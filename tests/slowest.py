"""Writes tables of the slowest tests and test files of a test run."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

_ROWS = 20


class SlowestTable:
    """A pytest plugin that sums the duration of each test, with setup and teardown."""

    def __init__(self, target: Path) -> None:
        self._target, self._seconds = target, defaultdict[str, float](float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        files = defaultdict[str, float](float)
        for test, seconds in self._seconds.items():
            files[test.partition("::")[0]] += seconds
        total = f"{len(self._seconds):,} tests, {sum(self._seconds.values()):,.0f} s in all (two run at a time)."
        parts = ["# The slowest tests", "Written by `make slowest`.", total]
        parts += [_table("test", self._seconds), _table("file", files)]
        self._target.write_text("\n\n".join(parts) + "\n", "utf-8")


def _table(head: str, seconds: Mapping[str, float]) -> str:
    slowest = sorted(seconds.items(), key=lambda item: -item[1])[:_ROWS]
    rows = [f"| `{name}` | {value:.1f} |" for name, value in slowest]
    return "\n".join([f"| {head} | seconds |", "| --- | --- |", *rows])
