"""`ganctl bench growth` measures real trainings; its table names what grows."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.growth.axes import AXES, BASE, DESCRIPTIONS, choose_axes, points
from ganctl.benchmarks.growth.data import write_images
from ganctl.benchmarks.growth.measure import Trainings, measure, summarize
from ganctl.benchmarks.growth.table import growth_table, not_flat
from ganctl.benchmarks.report import JsonObject
from tests.conftest import Ganctl

RUN_MODULE = "ganctl.benchmarks.growth.measure.run_module"
TINY = replace(BASE, steps=8, images=60, size=16, classes=2, batch=8)


def fabricated(**factors: Callable[[int], float]) -> JsonObject:
    """Returns results in which each measure is 1, but those named grow with the value of the axis."""
    names = (
        "seconds_per_image", "cpu_seconds_per_image", "first_start_seconds", "start_seconds", "evaluation_seconds",
        "private_bytes", "peak_bytes", "first_peak_bytes",
    )  # fmt: skip

    def point(value: int) -> JsonObject:
        return {"value": value} | {name: factors[name](value) if name in factors else 1.0 for name in names}

    axes = {axis: [point(value) for value in values] for axis, values in AXES.items()}
    machine = {"device": "CPU", "cores": 2, "torch": "2", "python": "3"}
    return {"machine": machine, "base": asdict(BASE), "axes": axes}


def test_the_points_of_an_axis_differ_from_the_base_in_its_size_alone() -> None:
    for axis, values in AXES.items():
        assert [getattr(point, axis) for point in points(axis)] == [*values]
        for point in points(axis):
            assert replace(point, **{axis: getattr(BASE, axis)}) == BASE
    assert [point.images for point in points("images", largest=50_000)] == [1000, 10_000]
    assert set(AXES) == set(DESCRIPTIONS) == set(asdict(BASE))


def test_an_unknown_axis_is_named() -> None:
    assert choose_axes([]) == [*AXES]
    assert choose_axes(["size", "steps"]) == ["steps", "size"]
    with pytest.raises(BenchUsageError, match=r"--only: found width, expected one of steps, "):
        choose_axes(["width"])


def test_the_synthetic_images_are_all_different_and_have_all_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "a.npz", images=10_300, size=16, classes=100)
    with np.load(tmp_path / "a.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (10_300, 16, 16)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 10_300
    assert np.bincount(labels).tolist() == [103] * 100


def test_times_are_medians_over_the_second_half_of_the_steps() -> None:
    steps = [9.0] * 8 + [1.0, 1.0, 1.0, 5.0] * 2  # a penalty at every fourth step, after a slow start
    record = {
        "step_seconds": steps, "step_cpu_seconds": [2 * each for each in steps], "batch": 10, "start_seconds": 3.0,
        "evaluation_cpu_seconds": [8.0, 0.5], "private_bytes": [1] * 8 + [7] * 8, "peak_bytes": 50,
    }  # fmt: skip
    assert summarize(record) == {
        "seconds_per_image": 8 / 40, "cpu_seconds_per_image": 16 / 40, "start_seconds": 3.0, "private_bytes": 7,
        "peak_bytes": 50, "evaluation_seconds": 0.5,
    }  # fmt: skip


def test_the_table_has_a_row_for_each_point_and_the_unit_of_each_measure() -> None:
    results = fabricated(seconds_per_image=lambda value: 123e-6, private_bytes=lambda value: 345e6)
    lines = growth_table(results).splitlines()
    for axis, values in AXES.items():
        head = lines.index(next(line for line in lines if line.startswith(f"| `{axis}` |")))
        rows = [line.strip("| ").split(" | ") for line in lines[head + 2 : head + 2 + len(values)]]
        assert [row[0] for row in rows] == [f"{value:,}" for value in values]
        columns = lines[head].strip("| ").split(" | ")
        assert {row[columns.index("µs per image")] for row in rows} == {"123"}
        assert {row[columns.index("private memory, MB")] for row in rows} == {"345"}
    assert lines[-1] == "- nothing"


def test_only_what_grows_is_named() -> None:
    results = fabricated(start_seconds=lambda value: float(value), peak_bytes=lambda value: 1 + value / 1e8)
    texts = dict(text.split(": ") for text in not_flat(results))
    assert texts["classes, 500 ×"] == "start 500.0 ×"
    assert list(not_flat(fabricated())) == []


def test_the_figure_has_a_column_for_each_axis(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make peers installs it")
    from ganctl.benchmarks.figures import draw_growth

    results = fabricated(peak_bytes=lambda value: 1e8 + value)
    sizes = []
    for axes in (["ranks"], ["ranks", "size"]):
        draw_growth(results | {"axes": {axis: results["axes"][axis] for axis in axes}}, tmp_path / "growth.png")
        with Image.open(tmp_path / "growth.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][0] < sizes[1][0]
    assert sizes[0][1] == sizes[1][1]


@pytest.mark.soak
def test_a_point_is_a_real_training_that_is_measured_once(
    tmp_path: Path, ganctl: Ganctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(arguments: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        return ganctl(*arguments[1:], env={**os.environ, **environment})

    monkeypatch.setattr(RUN_MODULE, fork)
    messages: list[str] = []
    trainings = Trainings(tmp_path, messages.append)
    result = trainings.measure(TINY)
    assert min(result.values()) > 0, result
    assert result["first_start_seconds"] > result["start_seconds"] / 10
    assert result["private_bytes"] < result["peak_bytes"] < 5e9
    assert trainings.measure(TINY) is result
    assert [message.split(":")[0] for message in messages] == [TINY.describe()]
    assert not list(tmp_path.glob("*/growth.json")), "the runs are deleted"


def test_the_error_of_a_training_names_its_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 3, "", "train.batch_size = 1000: there are only 48 training images")
    monkeypatch.setattr(RUN_MODULE, lambda *arguments: failed)
    with pytest.raises(
        BenchError, match=r"batch 1,000: `ganctl train` failed with exit code 3:\ntrain.batch_size = 1000"
    ):
        Trainings(tmp_path, print).measure(replace(TINY, batch=1000))


@pytest.mark.soak
def test_two_ranks_and_a_longer_run_are_measured() -> None:
    results = measure(["ranks"], max_images=1000)
    assert [point["value"] for point in results["axes"]["ranks"]] in ([1], [1, 2])
    assert all(point["seconds_per_image"] > 0 for point in results["axes"]["ranks"])
