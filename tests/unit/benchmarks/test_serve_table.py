"""The tables of `ganctl bench serve` show medians, ratios within repetitions, and dashes for absent figures."""

import re
from pathlib import Path
from typing import Any

import pytest

from ganctl.benchmarks.errors import BenchUsageError
from ganctl.benchmarks.serving.cases import Case, cases
from ganctl.benchmarks.serving.systems import CEILING, LITSERVE
from ganctl.benchmarks.serving.table import END_MARKER, START_MARKER, replace_table, serve_table

Record = dict[str, Any]


def system(name: str, rates: list[float], measured: list[Case] | None = None, refused: float = 0.0) -> Record:
    """The record of a system; its rates for GET are twice `rates`."""
    figures = {"p50_ms": [1.0, 2.0, 9.0], "p99_ms": [10.0, 20.0, 90.0], "refused": [refused] * 3}
    return {
        "name": name, "what": f"description of {name}", "ready_seconds": [1.0, 2.0, 9.0],
        "memory": [{"rss": 300.0, "pss": 200.0, "pss_all": 700.0, "workers": 2}] * 3,
        "cases": [
            {"kind": case.kind, "connections": case.connections, "images": case.images, **figures}
            | {"rates": [2 * rate if case.kind == "GET" else rate for rate in rates]}
            for case in measured or cases()
        ],
    }  # fmt: skip


def results(*systems: Record) -> Record:
    machine = {"device": "CPU", "cores": 2, "torch": "2", "python": "3"}
    settings = {"seconds": 3.0, "repetitions": 3, "warm_up": 5.0}
    return {
        "machine": machine,
        **settings,
        "load_generator": "wrk",
        "systems": list(systems),
        "skipped": {"fastapi": "not installed"},
    }


def rows(text: str, name: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {name} |")]


def test_rates_and_latencies_are_medians() -> None:
    rates, latencies, other = rows(serve_table(results(system("onnx-2", [900.0, 1000.0, 5000.0]))), "onnx-2")
    assert rates == ["onnx-2", *["2,000"] * 4, *["1,000"] * 4]
    assert latencies == ["onnx-2", *["2.0 / 20.0"] * 8]
    assert other[4:] == ["1,000", "64,000", "20.0", "20.0", "2.0", "300", "200", "700"]


def test_ratios_pair_the_same_repetition_at_128_connections() -> None:
    text = serve_table(
        results(
            system("onnx-2", [600.0, 1200.0, 800.0]),
            system(LITSERVE, [100.0, 100.0, 200.0], [Case("POST", 128), Case("grid", 16)]),
            system(CEILING, [1000.0, 2000.0, 1000.0], [Case("GET", 128), Case("POST", 128)]),
        )
    )
    assert rows(text, "onnx-2")[2][1:4] == ["0.60", "0.60", "6.00"]
    assert rows(text, LITSERVE)[2][1:4] == ["–", "0.10", "–"], "no GET, and no ratio to itself"
    assert rows(text, CEILING)[2][1:4] == ["–", "–", "10.00"]


def test_unmeasured_cases_are_dashes_and_refused_shares_are_shown() -> None:
    text = serve_table(results(system("stock", [100.0] * 3, [Case("GET", 128)], refused=0.213)))
    rates, _, other = rows(text, "stock")
    assert rates == ["stock", "–", "–", "–", "200 (21%)", "–", "–", "–", "–"]
    assert other[1:7] == ["–"] * 6
    assert re.search(r"^- fastapi\b.*: not installed$", text, re.MULTILINE)
    assert "- stock: description of stock" in text


def test_all_rows_of_a_table_have_the_same_number_of_cells() -> None:
    text = serve_table(results(system("onnx-2", [1.0] * 3), system(CEILING, [1.0] * 3)))
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_table_between_the_markers_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "B.md"
    document.write_text(f"before\n{START_MARKER}\nold\n{END_MARKER}\nafter\n", "utf-8")
    for _ in range(2):
        replace_table(document, "| new |\n")
    assert document.read_text("utf-8") == f"before\n{START_MARKER}\n\n| new |\n\n{END_MARKER}\nafter\n"


def test_a_document_without_markers_is_an_error_and_unchanged(tmp_path: Path) -> None:
    document = tmp_path / "B.md"
    document.write_text("nothing here\n")
    facts = ".*".join(map(re.escape, (f"--into {document}: ", START_MARKER, END_MARKER)))
    with pytest.raises(BenchUsageError, match=facts):
        replace_table(document, "| new |\n")
    assert document.read_text() == "nothing here\n"
