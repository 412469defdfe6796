"""The charts of a report: scores beside their floors, losses, learning rate and throughput."""

from collections.abc import Iterator, Sequence

from ganctl.training.report.charts import COLORS, Point, Series, line_chart
from ganctl.training.report.html import Html, element
from ganctl.training.report.run import RunRecord, number

_X_LABEL = "images trained on"
# title → (statistic, label) of each line; the second one is dashed
_SCORES = {
    "Fréchet distance and its floor": (("fd", "distance"), ("fd_floor", "floor of real images")),
    "KID ± standard error": (("kid", "KID"),),
    "Label accuracy": (("label_accuracy", "generated images"), ("scorer_accuracy", "classifier on real images")),
    "Precision and recall": (("precision", "precision"), ("recall", "recall")),
    "Diversity": (("diversity", "diversity"),),
    "Near copies of training images": (("near_copies", "share"),),
}
_PERCENT = ("Discriminator accuracy", "Label accuracy", "Precision and recall", "Near copies of training images")
_TRAINING = {
    "Losses": (("loss_d", "discriminator"), ("loss_g", "generator")),
    "Discriminator accuracy": (("discriminator_accuracy", "accuracy"),),
    "Learning rate": (("lr", "learning rate"),),
    "Throughput, images/s": (("images_per_second", "images/s"),),
}


def score_charts(runs: Sequence[RunRecord]) -> Html | None:
    """Charts of the scores of each evaluation; None before the first one."""
    charts = []
    for title, lines in _SCORES.items():
        series = list(_series(runs, lines, scores=True))
        charts.append(line_chart(title, series, x_label=_X_LABEL, percent=title in _PERCENT))
    return _grid(charts)


def training_charts(runs: Sequence[RunRecord]) -> Html | None:
    """Charts of the statistics of each log interval; the less important ones can be opened."""
    main = [
        line_chart(title, list(_series(runs, lines)), x_label=_X_LABEL, percent=title in _PERCENT)
        for title, lines in _TRAINING.items()
    ]
    shown = {name for lines in _TRAINING.values() for name, _ in lines}
    others = dict.fromkeys(name for run in runs for name in run.statistics if name not in shown)
    more = _grid(
        [line_chart(name.replace("_", " "), list(_series(runs, ((name, name),))), x_label=_X_LABEL) for name in others]
    )
    first = _grid(main)
    if first is None or more is None:
        return first or more
    return Html(first + element("details", element("summary", f"{len(others)} more curves"), more))


def _series(runs: Sequence[RunRecord], lines: Sequence[tuple[str, str]], *, scores: bool = False) -> Iterator[Series]:
    """Yields the lines of all runs. Colors separate runs, or the lines of one run; dashes lines."""
    for index, run in enumerate(runs):
        for place, (name, label) in enumerate(lines):
            points = run.score_curve(name) if scores else run.curve(name)
            text = run.name if len(runs) > 1 else ""
            color = (place if len(runs) == 1 else index) % COLORS
            yield Series(
                text, label, points, color, dashed=place > 0, errors=_errors(run, points) if name == "kid" else ()
            )


def _errors(run: RunRecord, points: Sequence[Point]) -> list[float]:
    """Returns the standard error of each KID; none if one is unknown."""
    rows = [
        row for row in run.evaluations if number(row.get("kid")) is not None and number(row.get("images")) is not None
    ]
    errors = [number(row.get("kid_se")) for row in rows]
    known = [error for error in errors if error is not None]
    return known if len(known) == len(points) else []


def _grid(charts: Sequence[Html | None]) -> Html | None:
    present = [chart for chart in charts if chart is not None]
    return element("div", *present, class_="charts") if present else None
