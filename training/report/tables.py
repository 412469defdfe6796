"""The tables of a report: overview, scores, classes, settings, environment."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ganctl.training.config.schema import DESCRIPTIONS
from ganctl.training.report.html import Child, Html, element, join, table
from ganctl.training.report.provenance import setting_names, setting_source, setting_value
from ganctl.training.report.run import RunRecord, number
from ganctl.training.report.samples import BestCheckpoint
from ganctl.training.report.scores import ROWS, score_text, sentences, value_text

Scores = Mapping[str, Any]
_SPLITS = {"test": "test images", "val": "validation images"}


def overview(runs: Sequence[RunRecord], scores: Sequence[Scores]) -> Html:
    """One row for each run: state, position, and the summary of its scores."""
    rows: list[list[Child]] = []
    for run, each in zip(runs, scores, strict=True):
        step, images = run.position
        faults = [element("small", text) for text in (run.end.get("error"), *run.faults) if text]
        summary = [element("small", text) for text in sentences(each)[1:]]
        rows.append(
            [
                run.name,
                join(run.state, *faults),
                f"{step:,}",
                f"{images:,}",
                duration(run.seconds),
                element("div", sentences(each)[0], *summary, class_="sentences"),
            ]
        )
    return table(["run", "state", "steps", "images", "time", "quality"], rows, caption="The runs.")


def score_table(runs: Sequence[RunRecord], scores: Sequence[Scores]) -> Html | None:
    """One row for each known score; with a single run also the score of real images and an explanation."""
    known = [row for row in ROWS if any(number(each.get(row.name)) is not None for each in scores)]
    if not known:
        return None
    rows: list[list[Child]] = []
    for row in known:
        cells: list[Child] = []
        for each in scores:
            real = value_text(each.get(row.real), percent=row.percent) if row.real else None
            label = "classifier on real images" if row.name == "label_accuracy" else "real images"
            note = element("small", f"{label}: {real}") if real not in (None, "–") else None
            cells.append(join(score_text(each, row), note))
        rows.append([row.title, *cells, row.meaning])
    images = [_images(each) for each in scores]
    rows.insert(0, ["scored on", *images, "real images, which are compared with as many generated ones"])
    head = ["score", *(run.name if len(runs) > 1 else "value" for run in runs), "meaning"]
    return table([*head], rows, caption="Scores of the best checkpoint, or of the last evaluation.")


def _images(scores: Scores) -> str:
    """Returns which real images scores were computed on."""
    count, split = number(scores.get("num_images")), str(scores.get("split"))
    return "–" if count is None else f"{count:,.0f} {_SPLITS.get(split, f'{split} images')}"


def class_table(runs: Sequence[RunRecord], scores: Sequence[Scores], bests: Sequence[BestCheckpoint]) -> Html | None:
    """One row for each class, with its label accuracy in each run; None if no run has classes."""
    accuracies = [each.get("class_accuracy") for each in scores]
    by_run = [each if isinstance(each, Mapping) else {} for each in accuracies]
    counts = {name: count for best in bests for name, count in best.class_images.items()}
    names = list(dict.fromkeys(name for each in by_run for name in each))
    if not names:
        return None
    head: list[Child] = ["class", *(run.name if len(runs) > 1 else "label accuracy" for run in runs)]
    rows: list[list[Child]] = [[name, *(_accuracy(each.get(name)) for each in by_run)] for name in names]
    if counts:
        head.append("training images")
        for name, row in zip(names, rows, strict=True):
            row.append(f"{counts[name]:,}" if name in counts else "–")
    caption = "Share of the generated images of each class that the classifier reads as that class."
    return table(head, rows, caption=caption)


def _accuracy(value: Any) -> Html:
    share = number(value)
    if share is None:
        return element("span", "–")
    meter = element("meter", min=0, max=1, value=round(share, 4), aria_hidden="true")
    return element("span", f"{share:.1%}", meter)


def settings_table(runs: Sequence[RunRecord]) -> Html | None:
    """All settings with their sources; those that differ from the defaults come first, the others can be opened."""
    names = setting_names(runs)
    if not names:
        return None
    chosen = [name for name in names if any(setting_source(run, name) not in ("default", "") for run in runs)]
    rest = [name for name in names if name not in chosen]
    commands = [
        element("p", f"{run.name}: " if len(runs) > 1 else "Command: ", element("code", command), class_="quiet")
        for run in runs
        if (command := _command(run))
    ]
    return join(
        *commands,
        _settings(runs, chosen, "Settings that a preset, a file or the command has set.") if chosen else None,
        element(
            "details",
            element("summary", f"{len(rest)} settings with their defaults"),
            _settings(runs, rest, "Defaults."),
        )
        if rest
        else None,
    )


def _settings(runs: Sequence[RunRecord], names: Sequence[str], caption: str) -> Html:
    rows: list[list[Child]] = []
    for name in names:
        cells: list[Child] = []
        for run in runs:
            cells += [join(setting_value(run, name), element("small", setting_source(run, name)))]
        description = (
            "the preset that the settings are based on"
            if name == "preset"
            else DESCRIPTIONS.get(name, "a setting of another version")
        )
        rows.append([name, *cells, description])
    head = ["setting", *(run.name if len(runs) > 1 else "value and source" for run in runs), "meaning"]
    return table([*head], rows, caption=caption)


def _command(run: RunRecord) -> str | None:
    words = run.environment.get("command")
    return shlex.join(map(str, words)) if isinstance(words, list) else None


def environment_table(runs: Sequence[RunRecord]) -> Html | None:
    """The machine and the versions of each run."""
    flat = [_flat_environment(run.environment) for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    if not names:
        return None
    rows: list[list[Child]] = [[name, *(each.get(name, "–") for each in flat)] for name in names]
    return table(["", *(run.name if len(runs) > 1 else "value" for run in runs)], rows, caption="Machine and versions.")


_LEFT_OUT = ("command", "setting_sources", "versions")


def _flat_environment(environment: Mapping[str, Any]) -> dict[str, str]:
    facts = {name.replace("_", " "): _fact(value) for name, value in environment.items() if name not in _LEFT_OUT}
    versions = environment.get("versions")
    return facts | ({name: str(version) for name, version in versions.items()} if isinstance(versions, Mapping) else {})


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def duration(seconds: float) -> str:
    """Writes a duration: 45 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"
