"""Mean and standard deviation of scores over several draws of latents."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any


def mean_and_deviation(draws: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the mean of each score over two or more draws, and its sample standard deviation (over K − 1).

    Nested dicts are averaged recursively. Integers, strings and None are equal in all draws: the first is taken, and
    they have no deviation. A bool is True if it is True in any draw.
    """
    mean: dict[str, Any] = {}
    deviation: dict[str, Any] = {}
    for name, first in draws[0].items():
        values = [draw[name] for draw in draws]
        if isinstance(first, dict):
            mean[name], deviation[name] = mean_and_deviation(values)
        elif isinstance(first, bool):
            mean[name] = any(values)
        elif isinstance(first, float):
            mean[name], deviation[name] = fmean(values), stdev(values)
        else:
            mean[name] = first
    return mean, deviation
