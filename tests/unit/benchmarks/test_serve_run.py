"""`ganctl bench serve` interleaves servers, measures each with its best settings, and reports skipped ones."""

import importlib.util
import re
from functools import partial
from itertools import product
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
MODELS = Models(Path("a.mar"), None, generator=Path("a.onnx"), conv=Path("c.mar"), digit=b"", ray=Path("a-ray"))


def tiny(name: str, *words: str, **others: Any) -> Target:
    prepare = partial(by_port, [TINY, *words], Path("a.onnx"), "/")
    return Target(name, f"tiny {' '.join(words)}".strip(), prepare, kinds=("GET", "POST"), **others)


def serving(messages: list[str], repetitions: int = 1, min_replies: int = 1) -> ServingBenchmark:
    return ServingBenchmark(
        seconds=0.2, repetitions=repetitions, warm_up=0, min_replies=min_replies, announce=messages.append
    )


def by_name() -> dict[str, Target]:
    return {system.name: system for system in systems(MODELS)}


@pytest.mark.soak
def test_each_repetition_measures_all_servers() -> None:
    messages: list[str] = []
    cases = [Case("GET", 2), Case("POST", 4), Case("grid", 1)]
    results = serving(messages, 2).run([tiny("fast"), tiny("slow", "0.5")], cases)
    for message, (repetition, name) in zip(messages, product((1, 2), ("fast", "slow")), strict=True):
        assert re.search(rf"\b{repetition} of 2\b.*\b{name}\b", message)
    fast, slow = results["systems"]
    assert [case["kind"] for case in fast["cases"]] == ["GET", "POST"], "this server does not support grids"
    for system in (fast, slow):
        assert len(system["ready_seconds"]) == len(system["memory"]) == 2
        assert all(len(case["rates"]) == len(case["p99_ms"]) == 2 for case in system["cases"])
    assert min(fast["cases"][0]["rates"]) > max(slow["cases"][0]["rates"])
    assert min(slow["cases"][0]["p50_ms"]) >= 500


def test_refused_requests_count_only_in_the_share_of_refused_ones() -> None:
    results = serving([], min_replies=100).run([tiny("one")], [Case("GET", 2), Case("POST", 4)])
    get, post = results["systems"][0]["cases"]
    assert get["refused"] == [0]
    assert post["refused"][0] == pytest.approx(0.1, abs=0.03), "every tenth request is for the digit 3"


@pytest.mark.soak
def test_the_variant_that_is_fastest_in_a_short_trial_is_measured() -> None:
    messages: list[str] = []
    system = tiny("one", "3", variants=(tiny("one"),))
    (measured,) = serving(messages).run([system], [Case("GET", 1)])["systems"]
    assert measured["what"] == "tiny"
    slow_trial, fast_trial, _ = messages
    assert "tiny 3" in slow_trial
    assert re.search(r"\btiny\b(?! 3)", fast_trial)


def test_systems_with_missing_packages_or_files_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name in ("litserve", "uvicorn") else find_spec(name, *rest),
    )
    selected = choose(by_name(), ["torchscript", LITSERVE, "fastapi"], "--only")
    results = serving([]).run(selected, [Case("GET", 1)])
    assert results["systems"] == []
    text = serve_table(results)
    assert re.search(r"^- litserve\b.*package litserve\b.*'make bench'", text, re.MULTILINE)
    assert re.search(r"^- fastapi\b.*\buvicorn\b", text, re.MULTILINE)
    assert re.search(r"^- torchscript\b.*generator\.ts", text, re.MULTILINE)


def test_systems_are_selected_by_unique_names_and_an_unknown_name_is_an_error() -> None:
    targets = by_name()
    assert len(targets) == len(systems(MODELS))
    assert [system.name for system in choose(targets, [CEILING, "onnx-2"], "--only")] == ["onnx-2", CEILING]
    assert choose(targets, [], "--only") == list(targets.values())
    with pytest.raises(BenchUsageError, match=r"--only: .*onyx-2\b.*\bonnx-1, onnx-2"):
        choose(targets, ["onyx-2"], "--only")
