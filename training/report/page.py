"""Builds the report: one HTML file without scripts and external resources."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template

from ganctl import __version__
from ganctl.training.report import curves, images, tables
from ganctl.training.report.html import Child, Html, element, join, table
from ganctl.training.report.provenance import differing_settings, setting_value
from ganctl.training.report.run import RunRecord
from ganctl.training.report.samples import BestCheckpoint, draw_best
from ganctl.training.report.scores import best_scores, sentences

_PICTURE_BYTES = 3_000_000  # of all pictures; in base64 a third more, which leaves room for the rest of 5 MB


def build_page(runs: Sequence[RunRecord], announce: Callable[[str], None]) -> str:
    """Returns the report of one or more runs as HTML.

    Args:
        runs: the runs.
        announce: receives progress messages.
    """
    bests = [draw_best(run.path, announce) for run in runs]
    scores = [best_scores(run, best.scores) for run, best in zip(runs, bests, strict=True)]
    several = len(runs) > 1
    body = join(
        element("header", *_head(runs, scores)),
        element(
            "main",
            _card("Overview", tables.overview(runs, scores)) if several else None,
            _card("Settings that differ", _differences(runs)) if several else None,
            _card("Samples of the best checkpoint", _side_by_side(runs, bests, images.best_samples)),
            _card("Scores", tables.score_table(runs, scores), curves.score_charts(runs)),
            _card("Training", curves.training_charts(runs)),
            _card("Classes", tables.class_table(runs, scores, bests)),
            _card("Nearest training images", _side_by_side(runs, bests, images.neighbors)),
            _card("During training", _side_by_side(runs, bests, images.history)),
            _card("Settings", tables.settings_table(runs)),
            _card("Environment", tables.environment_table(runs)),
        ),
        element("footer", f"Written by ganctl {__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."),
    )
    return _fill(", ".join(run.name for run in runs), body)


def _fill(title: str, body: Html) -> str:
    folder = Path(__file__).parent
    style = (folder / "style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = Template((folder / "page.html").read_text("utf-8"))
    head = element("title", f"{title} – ganctl report").removeprefix("<title>").removesuffix("</title>")
    return template.substitute(policy=policy, title=head, style=style, body=body)


def _head(runs: Sequence[RunRecord], scores: Sequence[Mapping[str, object]]) -> list[Child]:
    if len(runs) > 1:
        return [
            element("h1", f"{len(runs)} runs compared"),
            element("p", ", ".join(run.name for run in runs), class_="quiet"),
        ]
    (run,) = runs
    step, trained = run.position
    texts = [element("p", text) for text in sentences(scores[0])]
    facts = f"{step:,} steps, {trained:,} images in {tables.duration(run.seconds)}; {run.path}"
    return [
        element("h1", run.name),
        element("p", run.state, class_=f"state{' bad' if run.troubled else ''}"),
        *_faults(run),
        *texts,
        element("p", facts, class_="quiet"),
    ]


def _faults(run: RunRecord) -> list[Html]:
    error = run.end.get("error")
    texts = [*([str(error)] if error else []), *run.faults]
    return [element("p", text, class_="bad") for text in texts]


def _card(title: str, *content: Child) -> Html | None:
    present = [each for each in content if each is not None]
    return element("section", element("h2", title), *present) if present else None


def _differences(runs: Sequence[RunRecord]) -> Html:
    names = differing_settings(runs)
    if not names:
        return element("p", "All settings are equal.")
    rows: list[list[Child]] = [[name, *(setting_value(run, name) for run in runs)] for name in names]
    return table(
        ["setting", *(run.name for run in runs)], rows, caption="Value of each run; all other settings are equal."
    )


def _side_by_side(
    runs: Sequence[RunRecord],
    bests: Sequence[BestCheckpoint],
    build: Callable[[RunRecord, BestCheckpoint, int], Html],
) -> Html:
    """Returns the pictures of all runs, one column each."""
    limit = _PICTURE_BYTES // len(runs)
    columns = [
        element("div", element("h3", run.name) if len(runs) > 1 else None, build(run, best, limit))
        for run, best in zip(runs, bests, strict=True)
    ]
    return element("div", *columns, class_="runs")
