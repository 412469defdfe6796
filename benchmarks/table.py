"""Results tables of `ganctl bench quality`."""

from ganctl.benchmarks.quality.compare import curve_score
from ganctl.benchmarks.report import JsonObject, markdown_table

_COLUMNS = (  # title, name in the results, format; the table leaves out what no system has
    ("FD, × floor", "fd_ratio", ".1f"),
    ("worst seed", "worst_fd_ratio", ".1f"),
    ("FD", "fd", ".2f"),
    ("KID", "kid", ".4f"),
    ("KID's standard error", "kid_se", ".4f"),
    ("label accuracy", "label_accuracy", ".3f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("density", "density", ".3f"),
    ("coverage", "coverage", ".3f"),
    ("images seen", "images", ",.0f"),
    ("seconds", "seconds", ".1f"),
)
_LATE = 1.25  # × its time; a snapshot that was taken later is not in the column of the curve


def table(results: JsonObject) -> str:
    """Returns the results in Markdown, with the conditions, and the systems that were skipped or failed."""
    machine, seeds = results["machine"], results["seeds"]
    threads = {run["threads"] for system in results["systems"] for run in system["runs"]}
    spread = f"Mean ± standard deviation; seeds: {seeds}." if seeds > 1 else "One run each, seed 0."
    lines = [
        f"Data: {results['data']}. Each system trains for {results['budget_seconds']:g} s of wall clock from its first"
        " step, in a process of its own; start-up, evaluations, saves and snapshots of the generator do not count. A"
        " preset, whose schedules follow the time, may end slightly earlier. The final generator is scored on"
        f" {results['num_images']:,} test images. {spread}",
        f"{machine['device']}; cores: {machine['cores']}, threads: {'/'.join(map(str, sorted(threads)))}; torch"
        f" {machine['torch']}, Python {machine['python']}.",
        "",
    ]
    systems = results["systems"]
    columns = [column for column in _COLUMNS if any(_mean(system, column[1]) is not None for system in systems)]
    columns = [column for column in columns if column[1] != "worst_fd_ratio" or seeds > 1]
    rows = [[system["name"], *(_cell(system, name, form) for _, name, form in columns)] for system in systems]
    lines += markdown_table(["system", *(title for title, _, _ in columns)], rows)
    lines += ["", *_curve_lines(results), ""]
    lines += [f"- {system['name']}: {system['what']}" for system in systems]
    lines += [f"- {name} was skipped: {why}" for name, why in results["skipped"].items()]
    lines += [f"- {name} failed: {why}" for name, why in results["failed"].items()]
    return "\n".join(lines) + "\n"


def _mean(system: JsonObject, name: str) -> float | None:
    value: float | None = system["mean"].get(name, system.get(name))
    return value


def _cell(system: JsonObject, name: str, form: str) -> str:
    mean, std = _mean(system, name), system["std"].get(name)
    if mean is None:
        return "–"
    return f"{mean:{form}}" if std is None else f"{mean:{form}} ± {std:{form}}"


def _curve_lines(results: JsonObject) -> list[str]:
    """The table of the Fréchet distance over seconds of training, means over the seeds."""
    score, times = curve_score(results), results["curve_seconds"]
    unit = "Fréchet distance, × floor," if score == "fd_ratio" else "Fréchet distance"
    rows = [
        [system["name"], *(_curve_cell(system["runs"], score, seconds, seconds == times[-1]) for seconds in times)]
        for system in results["systems"]
    ]
    head = ["system", *(f"{seconds:.3g} s" for seconds in times)]
    return [f"{unit} over seconds of training (–: no step ended about then):", "", *markdown_table(head, rows)]


def _curve_cell(runs: list[JsonObject], score: str, seconds: float, last: bool) -> str:
    values = []
    for run in runs:
        later = [point for point in run["curve"] if seconds <= point["seconds"] <= _LATE * seconds]
        point = run["curve"][-1] if last else later[0] if later else None
        if point is None or point[score] is None:
            return "–"
        values.append(point[score])
    mean = sum(values) / len(values)
    return f"{mean:,.1f}" if mean < 1000 else f"{mean:,.0f}"
