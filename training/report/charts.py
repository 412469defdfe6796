"""Line charts as inline SVG: axes, logarithmic scale, legend, and tooltips without scripts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from ganctl.training.report.html import Html, element

_WIDTH, _HEIGHT = 360, 210  # about the width of a phone, so that texts keep their size there
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 34
_MAX_POINTS = 200  # of a line; more are averaged
_MAX_TOOLTIPS = 50  # of a line
_LOG_RATIO = 30  # of the largest and the smallest value; beyond, the scale is logarithmic
_TICKS = 5
_LARGEST, _SMALLEST = 1e100, 1e-100  # of the values that are drawn
COLORS = 8  # of style.css

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        run, name: what the line shows; `run` is empty if there is only one.
        points: (x, y) in the order of x.
        color: 0 … COLORS − 1.
        dashed: whether the line is dashed.
        errors: of each y; empty if unknown.
    """

    run: str
    name: str
    points: Sequence[Point]
    color: int
    dashed: bool = False
    errors: Sequence[float] = ()

    @property
    def label(self) -> str:
        return f"{self.run}: {self.name}" if self.run else self.name


def line_chart(title: str, series: Sequence[Series], *, x_label: str, percent: bool = False) -> Html | None:
    """Returns a figure with all lines; None if they have no point.

    Args:
        title: of the figure.
        series: the lines. A line with `errors` gets a band of ± one error.
        x_label: of the horizontal axis.
        percent: whether to write y as percentages, on a linear scale.
    """
    lines = [_thin(line) for each in series if (line := _within_range(each)).points]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    logarithmic = not percent and min(ys) > 0 and max(ys) / min(ys) > _LOG_RATIO
    extent = (
        ys
        if logarithmic
        else ys + [y + sign * e for line in lines for (_, y), e in _with_errors(line) for sign in (-1, 1)]
    )
    to_x, x_ticks = _axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    to_y, y_ticks = (
        _log_axis(min(ys), max(ys)) if logarithmic else _axis(min(extent), max(extent), _HEIGHT - _BOTTOM, _TOP)
    )
    show = (lambda value: f"{value:.1%}") if percent else _short
    parts: list[Html] = []
    for tick in y_ticks:
        y = round(to_y(tick), 1)
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        label = f"{tick:.4g}".rstrip() if not percent else f"{tick:.4%}".rstrip("%").rstrip("0").rstrip(".") + "%"
        parts.append(element("text", label if percent else _short(tick), x=_LEFT - 5, y=y + 4, text_anchor="end"))
    for tick in x_ticks:
        parts.append(
            element("text", _short(tick), x=round(to_x(tick), 1), y=_HEIGHT - _BOTTOM + 15, text_anchor="middle")
        )
    parts.append(element("text", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 4, text_anchor="middle"))
    for line in lines:
        parts += _draw(line, to_x, to_y, show)
    facts = [f"{line.label} from {show(line.points[0][1])} to {show(line.points[-1][1])}" for line in lines]
    scale = " (logarithmic scale)" if logarithmic else ""
    svg = element(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{title}{scale}: {'; '.join(facts)}"
    )
    return element("figure", element("figcaption", f"{title}{scale}"), svg, _legend(lines), class_="chart")


def _draw(
    line: Series, to_x: Callable[[float], float], to_y: Callable[[float], float], show: Callable[[float], str]
) -> list[Html]:
    places = [(round(to_x(x), 1), round(to_y(y), 1)) for x, y in line.points]
    parts = []
    if line.errors:
        bounds = [
            [(x, round(to_y(y + sign * e), 1)) for (x, _), ((_, y), e) in zip(places, _with_errors(line), strict=True)]
            for sign in (1, -1)
        ]
        outline = [*bounds[0], *reversed(bounds[1])]
        parts.append(element("polygon", points=" ".join(f"{x},{y}" for x, y in outline), class_=f"band c{line.color}"))
    style = f"line c{line.color}{' dashed' if line.dashed else ''}"
    if len(places) > 1:
        parts.append(element("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_=style))
    step = -(-len(places) // _MAX_TOOLTIPS)
    for index in range((len(places) - 1) % step, len(places), step):  # the last point is among them
        (x, y), (images, value) = places[index], line.points[index]
        error = f" ± {show(line.errors[index])}" if line.errors else ""
        tooltip = element("title", f"{line.label}: {show(value)}{error} at {_short(images)}")
        dot = "dot" if len(places) <= _MAX_TOOLTIPS else "dot hidden"
        parts.append(element("circle", tooltip, cx=x, cy=y, r=3, class_=f"{dot} c{line.color}"))
    return parts


def _legend(lines: Sequence[Series]) -> Html | None:
    """Returns one entry a line; of several lines of several runs, one for each run and one for each kind of line."""
    runs = {line.run: line for line in lines}
    kinds = {line.name: line for line in lines}
    if len(lines) == 1:
        return None
    if len(runs) > 1 and len(kinds) > 1:
        items = [_entry(run, f"c{line.color}") for run, line in runs.items()]
        items += [_entry(kind, "dashed" if line.dashed else "") for kind, line in kinds.items()]
    else:
        entries = ((line.run if len(kinds) == 1 else line.name, line) for line in lines)
        items = [_entry(text, f"c{line.color}{' dashed' if line.dashed else ''}") for text, line in entries]
    return element("ul", *items, class_="legend")


def _entry(text: str, style: str) -> Html:
    stroke = element("line", x1=0, x2=24, y1=5, y2=5, class_=f"line {style}")
    return element("li", element("svg", stroke, viewBox="0 0 24 10", aria_hidden="true"), element("span", text))


def _thin(line: Series) -> Series:
    """Averages neighboring points of a long line; the last point stays as it is."""
    points, errors = line.points, line.errors
    if len(points) <= _MAX_POINTS:
        return line
    bounds = [round(i * (len(points) - 1) / _MAX_POINTS) for i in range(_MAX_POINTS + 1)]
    groups = [slice(start, end) for start, end in pairwise(bounds)]
    means = [(fmean(x for x, _ in points[group]), fmean(y for _, y in points[group])) for group in groups]
    mean_errors = [*(fmean(errors[group]) for group in groups), errors[-1]] if errors else ()
    return replace(line, points=[*means, points[-1]], errors=mean_errors)


def _within_range(line: Series) -> Series:
    """Leaves out values with which the arithmetic of the axes would overflow; rounds those next to 0 to 0."""
    keep = [i for i, (x, y) in enumerate(line.points) if max(abs(x), abs(y)) < _LARGEST]
    points = [(line.points[i][0], y if abs(y := line.points[i][1]) > _SMALLEST else 0.0) for i in keep]
    return replace(line, points=points, errors=[min(line.errors[i], _LARGEST) for i in keep] if line.errors else ())


def _with_errors(line: Series) -> list[tuple[Point, float]]:
    return list(zip(line.points, line.errors or [0.0] * len(line.points), strict=True))


def _axis(low: float, high: float, start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Returns the linear map of [low, high] to [start, end] in pixels, and round ticks within [low, high]."""
    if low == high:
        low, high = (low, low + 1.0) if low == 0 else sorted((low / 2, low * 3 / 2))
    step = _round_step((high - low) / _TICKS)
    ticks = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return lambda value: start + (value - low) / (high - low) * (end - start), ticks


def _log_axis(low: float, high: float) -> tuple[Callable[[float], float], list[float]]:
    """The same for a logarithmic vertical axis; values below `low` are drawn at its end."""
    bottom, top = math.log10(low), math.log10(high)
    ticks = [digit * 10.0**power for power in range(math.floor(bottom), math.ceil(top) + 1) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) > _TICKS + 1:
        ticks = [tick for tick in ticks if round(math.log10(tick), 6).is_integer()]
        ticks = ticks[:: -(-len(ticks) // _TICKS)]

    def place(value: float) -> float:
        share = (math.log10(max(value, low)) - bottom) / (top - bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    return place, ticks


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _short(value: float) -> str:
    """Writes a number in few characters: 1.2M, 55k, 0.0021."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if limit > 1e4 else 1e3):.3g}{suffix}"
    if abs(value) >= 1e3:
        return f"{value:.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")
