"""Charts of the report: scales, ticks, tooltips, legends and text alternatives."""

import re

import pytest

from ganctl.training.report.charts import Series, line_chart


def chart(*series: Series, percent: bool = False) -> str:
    drawn = line_chart("Title", series, x_label="images", percent=percent)
    assert drawn is not None
    return drawn


def line(*values: float, run: str = "", name: str = "loss", color: int = 0, dashed: bool = False) -> Series:
    return Series(run, name, [(1000.0 * (i + 1), value) for i, value in enumerate(values)], color, dashed)


def test_a_chart_without_a_point_is_left_out() -> None:
    assert line_chart("Title", [line()], x_label="images") is None


def test_a_wide_range_of_positive_values_gets_a_logarithmic_scale() -> None:
    assert "Title (logarithmic scale)" in chart(line(100.0, 10.0, 1.0))
    assert "logarithmic" not in chart(line(3.0, 2.0, 1.0))
    assert "logarithmic" not in chart(line(100.0, 1.0, 0.0))


@pytest.mark.parametrize("values", [(5.0,), (0.0, 0.0), (-3.0, -3.0), (1e-9, 1e9), (2000.0, 4000.0)])
def test_every_line_is_within_the_picture(values: tuple[float, ...]) -> None:
    drawn = chart(line(*values))
    ys = [float(y) for y in re.findall(r'cy="([-\d.]+)"', drawn)]
    assert len(ys) == len(values)
    assert all(0 <= y <= 210 for y in ys)
    assert "e+" not in re.sub('<title>.*?</title>|aria-label="[^"]*"', "", drawn)


def test_each_point_has_a_tooltip_and_the_chart_a_text_alternative() -> None:
    drawn = chart(line(3.0, 2.0))
    assert "<title>loss: 2 at 2000</title>" in drawn
    assert 'aria-label="Title: loss from 3 to 2"' in drawn


def test_a_long_line_is_averaged_and_keeps_its_last_point() -> None:
    drawn = chart(line(*range(10_000), 7.0))
    (points,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    assert len(points.split()) == 201
    assert "<title>loss: 7 at 10M</title>" in drawn
    assert drawn.count("<circle") <= 51


def test_lines_of_several_runs_share_the_entries_of_their_kinds() -> None:
    runs = [line(2.0, 1.0, run=run, name=name, color=color, dashed=name == "floor")
            for color, run in enumerate(("one", "two")) for name in ("distance", "floor")]  # fmt: skip
    assert re.findall("<span>(.*?)</span>", chart(*runs)) == ["one", "two", "distance", "floor"]
    assert re.findall("<span>(.*?)</span>", chart(line(1.0), line(2.0, name="other"))) == ["loss", "other"]
    assert "<span>" not in chart(line(1.0))


def test_errors_are_drawn_as_a_band() -> None:
    series = Series("", "KID", [(1.0, 2.0), (2.0, 3.0)], 0, errors=(0.5, 0.25))
    drawn = chart(series)
    assert len(re.findall(r'<polygon points="([^"]*)"', drawn)[0].split()) == 4
    assert "<title>KID: 2 ± 0.5 at 1</title>" in drawn


def test_a_long_line_with_errors_is_averaged_with_them() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    drawn = chart(Series("", "KID", points, 0, errors=[0.5] * len(points)))
    assert len(re.findall(r'<polygon points="([^"]*)"', drawn)[0].split()) == 2 * 201


@pytest.mark.parametrize("values", [(0.0, 5e-324), (1e308, -1e308, 1.0), (5e-324, 1.0), (1e300, 1.0)])
def test_values_at_the_limits_of_floats_are_no_error(values: tuple[float, ...]) -> None:
    assert "<svg" in chart(line(*values))
