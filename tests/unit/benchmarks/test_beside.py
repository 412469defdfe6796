"""`ganctl bench train --beside` compares trainings that run at once with one alone."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ganctl.benchmarks.speed import beside
from ganctl.benchmarks.speed.beside import CASES, beside_table, measure

RATES = {"one": [[100.0], [50.0], [200.0]], "two at once": [[10.0, 20.0], [10.0, 5.0], [20.0, 30.0]]}
TWO = tuple(case for case in CASES if case.name in RATES)


def test_ratios_pair_the_same_repetition_and_the_slower_training_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    left = {name: iter(rates) for name, rates in RATES.items()}
    monkeypatch.setattr(beside, "CASES", TWO)
    monkeypatch.setattr(beside, "_rates", lambda case, seconds: next(left[case.name]))
    messages: list[str] = []
    results = measure(seconds=1.5, repetitions=3, announce=messages.append)
    two = results["cases"][1]
    assert two["images_per_second"] == [10.0, 20.0]
    assert two["ratios"] == [0.1, 0.2]
    assert "3 of 3: two at once: 20, 30 images/s" in messages
    table = beside_table(results)
    assert "3 interleaved repetitions of 1.5 s" in table
    assert "| two at once | 10, 20 | 0.10, 0.20 |" in table.splitlines()


@pytest.mark.soak
def test_trainings_that_run_at_once_are_measured_in_the_same_window(monkeypatch: pytest.MonkeyPatch) -> None:
    one_thread: Mapping[str, str] = {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(beside, "CASES", [replace(case, variables={**case.variables, **one_thread}) for case in TWO])
    results = measure(seconds=2.0, repetitions=1, announce=lambda text: None)
    assert [len(case["images_per_second"]) for case in results["cases"]] == [1, 2]
    assert all(rate > 0 for case in results["cases"] for rate in case["images_per_second"])
