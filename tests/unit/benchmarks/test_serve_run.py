"""`ganctl bench serve` interleaves servers, measures each with its best settings, and reports skipped ones."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ganctl.benchmarks.errors import BenchUsageError
from ganctl.benchmarks.report import choose
from ganctl.benchmarks.serving.cases import Case
from ganctl.benchmarks.serving.run import ServingBenchmark
from ganctl.benchmarks.serving.systems import CEILING, LITSERVE, Models, Target, by_port, systems
from ganctl.benchmarks.serving.table import serve_table

TINY = str(Path(__file__).parent / "tiny_server.py")
MODELS = Models(onnx=Path("a.mar"), torchscript=None, generator=Path("a.onnx"), conv=Path("c.mar"), digit=b"")


def tiny(name: str, *words: str, **others: Any) -> Target:
    prepare = partial(by_port, [TINY, *words], Path("a.onnx"), "/")
    return Target(name, f"tiny {' '.join(words)}".strip(), prepare, kinds=("GET", "POST"), **others)


def serving(told: list[str], repetitions: int = 1, min_replies: int = 1) -> ServingBenchmark:
    return ServingBenchmark(
        seconds=0.2, repetitions=repetitions, warm_up=0, min_replies=min_replies, announce=told.append
    )


def by_name() -> dict[str, Target]:
    return {system.name: system for system in systems(MODELS)}


def test_each_repetition_measures_all_servers() -> None:
    told: list[str] = []
    cases = [Case("GET", 2), Case("POST", 4), Case("grid", 1)]
    results = serving(told, 2).run([tiny("one"), tiny("two", "0.5")], cases)
    assert [text.split(":")[:2] for text in told] == [
        ["1 of 2", " one"], ["1 of 2", " two"], ["2 of 2", " one"], ["2 of 2", " two"],
    ]  # fmt: skip
    one, two = results["systems"]
    assert [case["kind"] for case in one["cases"]] == ["GET", "POST"], "it does not support grids"
    for system in (one, two):
        assert len(system["ready_seconds"]) == len(system["memory"]) == 2
        assert all(len(case["rates"]) == len(case["p99_ms"]) == 2 for case in system["cases"])
    fast, slow = one["cases"][0], two["cases"][0]
    assert min(fast["rates"]) > max(slow["rates"])
    assert min(slow["p50_ms"]) >= 500


def test_refused_requests_count_only_in_their_share() -> None:
    results = serving([], min_replies=100).run([tiny("one")], [Case("GET", 2), Case("POST", 4)])
    get, post = results["systems"][0]["cases"]
    assert get["refused"] == [0]
    assert post["refused"][0] == pytest.approx(0.1, abs=0.03), "every tenth request is for a 3"


def test_the_fastest_variant_of_a_short_trial_is_measured() -> None:
    told: list[str] = []
    system = tiny("one", "3", variants=(tiny("one"),))
    (measured,) = serving(told).run([system], [Case("GET", 1)])["systems"]
    assert measured["what"] == "tiny"
    assert [text.split(":")[0] for text in told] == ["trial of tiny 3", "trial of tiny", "1 of 1"]


def test_peers_with_missing_packages_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name in ("litserve", "uvicorn") else find_spec(name, *rest),
    )
    found = choose(by_name(), ["torchscript", LITSERVE, "fastapi"], "--only")
    results = serving([]).run(found, [Case("GET", 1)])
    assert results["systems"] == []
    text = serve_table(results)
    assert "- litserve was skipped: it needs the package litserve: install it with 'make bench'" in text
    assert "- fastapi was skipped: it needs the package uvicorn" in text or "fastapi and uvicorn" in text
    assert "- torchscript was skipped: the export has no generator.ts" in text


def test_names_are_unique_and_an_unknown_one_is_an_error() -> None:
    every = by_name()
    assert len(every) == len(systems(MODELS))
    assert [system.name for system in choose(every, [CEILING, "onnx-2"], "--only")] == ["onnx-2", CEILING]
    assert choose(every, [], "--only") == list(every.values())
    with pytest.raises(BenchUsageError, match="--only: found onyx-2, expected one of onnx-1, onnx-2"):
        choose(every, ["onyx-2"], "--only")
