"""Scores of several draws of latents as one: their mean, and how much they vary."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any


def mean_and_deviation(draws: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The mean of each score over two or more draws, and its standard deviation (that of a sample, over K − 1).

    Objects of scores are gone through. Whole numbers and what is None are the same in all draws, and have no deviation;
    a flag is raised where any draw raises it.
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
