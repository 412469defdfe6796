"""Figures of `ganctl bench`: Fréchet distance over time, training rates, growth, and serving rates and latencies."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from ganctl.benchmarks.quality.compare import curve_score
from ganctl.benchmarks.report import JsonObject
from ganctl.benchmarks.speed.table import groups

# Okabe and Ito's color-blind safe palette, and a marker for each color
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def draw_curves(results: JsonObject, path: Path) -> None:
    """Draws FD (× floor) over seconds of training, log-log: mean over the seeds, and a band from minimum to maximum.

    Without a valid floor it draws the distance itself.
    """
    score = curve_score(results)
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        for i, system in enumerate(results["systems"]):
            seconds, mean, lowest, highest = _curve([run["curve"] for run in system["runs"]], score)
            color, mark = _COLORS[i % len(_COLORS)], _MARKS[i % len(_MARKS)]
            axes.plot(seconds, mean, color=color, marker=mark, markersize=5, linewidth=2, label=system["name"])
            axes.fill_between(seconds, lowest, highest, color=color, alpha=0.18, linewidth=0)
        label = "Fréchet distance, × floor" if score == "fd_ratio" else "Fréchet distance"
        axes.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel=label)
        seeds = results["seeds"]
        spread = f", band: minimum to maximum of {seeds} seeds" if seeds > 1 else ""
        title = "1: real images" if score == "fd_ratio" else results["data"]
        axes.set_title(f"{title}{spread}", loc="left", fontsize=11, color="#555555")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        handles, names = axes.get_legend_handles_labels()
        order = np.argsort([-_curve([run["curve"] for run in s["runs"]], score)[1][-1] for s in results["systems"]])
        figure.legend([handles[i] for i in order], [names[i] for i in order], loc="outside right upper")
        figure.savefig(path, dpi=200)
        plt.close(figure)


def draw_rates(results: JsonObject, path: Path) -> None:
    """Draws images/s of each loop, in a panel per preset and batch size; bars span the repetitions."""
    by_preset = list(groups(results["cases"]))
    heights = [len(group) for group in by_preset]
    with mpl.rc_context(_STYLE | {"axes.grid.axis": "x"}):
        figure, panels = plt.subplots(
            len(heights), figsize=(8, 0.36 * sum(heights) + 0.9 * len(heights)), height_ratios=heights, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axes, group in zip(panels[:, 0], by_preset, strict=True):
            names = [f"{case['system']} {case['precision']}" for case in group]
            rates = np.array([case["images_per_second"] for case in group])
            spread = np.array([[min(case["rates"]), max(case["rates"])] for case in group]).T
            colors = [_COLORS[0] if case["system"].startswith("ours") else "#999999" for case in group]
            axes.barh(names, rates, color=colors, xerr=np.abs(spread - rates), ecolor="#333333", capsize=3)
            axes.invert_yaxis()
            axes.set_title(f"{group[0]['preset']}, batch {group[0]['batch']}", loc="left", fontsize=11)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.set_axisbelow(True)
        panels[-1, 0].set_xlabel("images/s")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_growth(results: JsonObject, path: Path) -> None:
    """Draws CPU time per image, seconds until the first step, and memory over each axis, log-log."""
    axes_points = results["axes"]
    measures = {
        "CPU µs per image": {"": ("cpu_seconds_per_image", 1e6)},
        "start, s": {"first run": ("first_start_seconds", 1.0), "later runs": ("start_seconds", 1.0)},
        "memory, MB": {"peak resident": ("peak_bytes", 1e-6), "private": ("private_bytes", 1e-6)},
    }
    with mpl.rc_context(_STYLE | {"font.size": 10}):
        figure, panels = plt.subplots(
            len(measures), len(axes_points), figsize=(0.8 + 1.9 * len(axes_points), 7), squeeze=False, sharey="row",
            sharex="col", layout="constrained",
        )  # fmt: skip
        for row, (title, curves) in zip(panels, measures.items(), strict=True):
            row[0].set_ylabel(title)
            for axes, points in zip(row, axes_points.values(), strict=True):
                values = [point["value"] for point in points]
                for i, (label, (name, factor)) in enumerate(curves.items()):
                    style = {"color": _COLORS[i], "marker": _MARKS[i], "markersize": 4, "label": label}
                    axes.plot(values, [point[name] * factor for point in points], **style)
                axes.set(xscale="log", yscale="log")
                axes.set_xticks(values, [f"{value:,}" if value < 10_000 else f"{value:.0e}" for value in values])
                for scale in (axes.xaxis, axes.yaxis):
                    scale.set_minor_formatter(NullFormatter())
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            if len(curves) > 1:
                row[0].legend(fontsize=8)
        for axes, axis in zip(panels[-1], axes_points, strict=True):
            axes.set_xlabel(axis)
        figure.savefig(path, dpi=100)
        plt.close(figure)


def draw_serving(results: JsonObject, path: Path) -> None:
    """Draws medians of requests/s and of the 99th percentile latency over connections, for POST."""
    with mpl.rc_context(_STYLE):
        figure, (rates, latencies) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
        for i, system in enumerate(results["systems"]):
            cases = [case for case in system["cases"] if case["kind"] == "POST"]
            numbers = [case["connections"] for case in cases]
            style = {"color": _COLORS[i % len(_COLORS)], "marker": _MARKS[i % len(_MARKS)], "label": system["name"]}
            style["linestyle"] = "-" if i < len(_COLORS) else "--"
            rates.plot(numbers, [np.median(case["rates"]) for case in cases], **style)
            latencies.plot(numbers, [np.median(case["p99_ms"]) for case in cases], **style)
        for axes, title in ((rates, "requests/s"), (latencies, "p99, ms")):
            axes.set(xscale="log", yscale="log", xlabel="connections", xticks=numbers, xticklabels=numbers)
            axes.set_title(f"{title}, one image per POST", loc="left", fontsize=11)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(*rates.get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path, dpi=100)
        plt.close(figure)


def _curve(curves: Sequence[Sequence[JsonObject]], score: str) -> tuple[NDArray[np.float64], ...]:
    """Returns seconds, and mean, minimum and maximum of a score over the seeds.

    The curves are aligned at the end, because a run with a slow start may skip the first snapshots.
    """
    length = min(len(curve) for curve in curves)
    seconds = np.array([[point["seconds"] for point in curve[-length:]] for curve in curves])
    distances = np.array([[point[score] for point in curve[-length:]] for curve in curves])
    return seconds.mean(axis=0), distances.mean(axis=0), distances.min(axis=0), distances.max(axis=0)
