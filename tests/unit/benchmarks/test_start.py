"""`ganctl bench start`: the times come from a run's log, the table has a row for each start."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganctl.benchmarks.cli import bench
from ganctl.benchmarks.start import event_times, start_table
from tests.any_images import disks, save_folder

LOG = """2026-01-01 10:00:02.500 auto: settings of conv
2026-01-01 10:00:03.000 begins at step 0
2026-01-01 10:00:04.250 step 12  first picture run/first.png
"""


def test_the_times_of_a_start_are_those_of_the_lines_in_its_log() -> None:
    times = event_times(LOG, datetime.fromisoformat("2026-01-01 10:00:00.000"))
    assert times == {"first_step": 3.0, "first_picture": 4.25}


def test_the_table_gives_the_rate_of_decoding_beside_the_cold_start() -> None:
    times = {"first_step": 3.0, "first_picture": 4.25, "cpu": 6.0}
    starts = [{"data": "/images/cats", "cache": cache, **times} for cache in ("cold", "warm")]
    assert start_table({"starts": starts, "decoding": {"/images/cats": 4321.0}}).splitlines()[2:] == [
        "| cats | cold | 3.0 | 4.2 | 6.0 | 4,321 |",
        "| cats | warm | 3.0 | 4.2 | 6.0 | – |",
    ]


@pytest.mark.soak
def test_a_folder_of_images_is_started_cold_and_warm(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "disks", disks(400, 16), labeled=True)
    words = ["start", "--data", str(source), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(bench, words, catch_exceptions=False)
    results = json.loads(done.stdout)
    assert [start["cache"] for start in results["starts"]] == ["cold", "warm"]
    for start in results["starts"]:
        assert start["first_picture"] >= start["first_step"] + 1
    assert results["decoding"][str(source)] > 0
