"""`ganctl bench export` times every form at every batch size and number of threads."""

from pathlib import Path

import pytest

from ganctl.benchmarks.export_forms import SIZES, THREADS, forms_table, measure
from ganctl.benchmarks.report import JsonObject

FORMS = ["eager", "traced", "torchscript", "pt2", "onnx", "onnx-fp16", "onnx-int8"]


@pytest.fixture(scope="module")
def results(small_run: Path) -> JsonObject:
    return measure(small_run, seconds=0.001, repetitions=1)


@pytest.mark.soak  # calibrates int8
def test_every_form_has_a_size_and_a_time_for_each_n_and_number_of_threads(results: JsonObject) -> None:
    assert [form["name"] for form in results["forms"]] == FORMS
    for form in results["forms"]:
        assert (form["bytes"] is None) == (form["name"] == "eager")
        assert set(form["milliseconds"]) == {str(threads) for threads in THREADS}
        for times in form["milliseconds"].values():
            assert set(times) == {str(n) for n in SIZES}
            assert min(times.values()) > 0
            assert times["256"] > times["1"]


@pytest.mark.soak
def test_the_table_has_a_row_for_each_form_and_its_speed_beside_that_of_onnx(results: JsonObject) -> None:
    rows = {line.split(" | ")[0].strip("| "): line for line in forms_table(results).splitlines()}
    assert set(FORMS) <= set(rows)
    assert rows["onnx"].count("(1.00)") == len(SIZES) * len(THREADS)


@pytest.mark.soak
def test_the_figure_is_drawn(results: JsonObject, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed: 'make bench' installs it")
    from ganctl.benchmarks.export_forms import draw_forms

    draw_forms(results, tmp_path / "forms.png")
    assert (tmp_path / "forms.png").stat().st_size > 10_000
