"""Measures the start of a training: seconds to its first step and first picture, with a cold and with a warm cache."""

import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ganctl.benchmarks.errors import BenchError
from ganctl.benchmarks.preparation import load
from ganctl.processes import ganctl_command
from ganctl.training.config.schema import absolute_source

_EVENTS = {"first_step": "begins at step", "first_picture": "first picture"}  # text of the line in log.txt
_PATIENCE = 900.0  # seconds
_POLL = 0.05


def measure(sources: Sequence[str], *, announce: Callable[[str], None]) -> dict[str, Any]:
    """Starts `ganctl train` twice for each data set, first with an empty cache, until its first picture is there.

    Returns:
        `starts`: for each, data, cache (cold or warm), seconds from the command to the first step and to the first
        picture, and CPU seconds of the whole command; `decoding`: images decoded per second of a core, by data set.

    Raises:
        BenchError: a training ends, or writes no picture in time.
    """
    starts, decoding = [], {}
    for source in map(absolute_source, sources):
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                announce(f"{source}: {cache} start")
                times = _start(source, Path(folder, cache), Path(folder, "cache"))
                starts.append({"data": source, "cache": cache, **times})
        if Path(source).is_absolute():
            announce(f"{source}: decoding")
            with tempfile.TemporaryDirectory() as folder:
                loaded = load(Path(source), Path(folder))
            decoding[source] = loaded["images"] / loaded["cpu"]["workers"]
    return {"starts": starts, "decoding": decoding}


def start_table(results: Mapping[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    rows = [
        "| data | cache | first step, s | first picture, s | CPU, s | decoded images/s of a core |",
        "|" + " --- |" * 6,
    ]
    for start in results["starts"]:
        rate = results["decoding"].get(start["data"]) if start["cache"] == "cold" else None
        times = " | ".join(f"{start[key]:.1f}" for key in ("first_step", "first_picture", "cpu"))
        decoded = "–" if rate is None else f"{rate:,.0f}"
        rows.append(f"| {Path(start['data']).name} | {start['cache']} | {times} | {decoded} |")
    return "\n".join(rows) + "\n"


def event_times(log: str, started: datetime) -> dict[str, float]:
    """Returns the seconds from `started` to each event in the text of a log.txt."""
    times: dict[str, float] = {}
    for line in log.splitlines():
        for name, text in _EVENTS.items():
            if text in line and name not in times:
                times[name] = (datetime.fromisoformat(line[:23]) - started).total_seconds()
    return times


def _start(source: str, run_dir: Path, cache: Path) -> dict[str, float]:
    command = ganctl_command("train", source, "--run-dir", str(run_dir))
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    log, cpu_before, started = run_dir / "log.txt", _children_cpu(), datetime.now()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
        try:
            times: dict[str, float] = {}
            deadline = time.monotonic() + _PATIENCE
            while _EVENTS.keys() != times.keys():
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise BenchError(f"'ganctl train {source}' wrote no first picture:\n{errors.read()[-2000:]}")
                time.sleep(_POLL)
                times = event_times(log.read_text("utf-8"), started) if log.exists() else {}
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait()
    return times | {"cpu": _children_cpu() - cpu_before}


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
