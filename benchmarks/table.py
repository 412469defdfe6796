"""Results table of `ganctl bench quality`."""

from ganctl.benchmarks.report import JsonObject, markdown_table

_COLUMNS = (  # title, name in the results, format
    ("FD, × floor", "fd_ratio", ".1f"),
    ("worst seed", "worst_fd_ratio", ".1f"),
    ("label accuracy", "label_accuracy", ".3f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("density", "density", ".3f"),
    ("coverage", "coverage", ".3f"),
    ("images/s", "images_per_second", ",.0f"),
    ("seconds", "seconds", ".1f"),
)


def table(results: JsonObject) -> str:
    """Returns the results in Markdown, with the conditions, and the systems that were skipped or failed."""
    machine, seeds = results["machine"], results["seeds"]
    threads = {run["threads"] for system in results["systems"] for run in system["runs"]}
    lines = [
        f"Each system trains for {results['budget_seconds']:g} s of wall clock from its first step, in a process of"
        " its own; start-up, evaluations, saves and snapshots of the generator do not count. A preset, whose schedules"
        " follow the time, may end slightly earlier. The final generator is scored on"
        f" {results['num_images']:,} test images. Mean ± standard deviation; seeds: {seeds}.",
        f"{machine['device']}; cores: {machine['cores']}, threads: {'/'.join(map(str, sorted(threads)))}; torch"
        f" {machine['torch']}, Python {machine['python']}.",
        "",
    ]
    rows = [
        [system["name"], *(_cell(system, name, form) for _, name, form in _COLUMNS)] for system in results["systems"]
    ]
    lines += markdown_table(["system", *(title for title, _, _ in _COLUMNS)], rows)
    lines += ["", *(f"- {system['name']}: {system['what']}" for system in results["systems"])]
    lines += [f"- {name} was skipped: {why}" for name, why in results["skipped"].items()]
    lines += [f"- {name} failed: {why}" for name, why in results["failed"].items()]
    return "\n".join(lines) + "\n"


def _cell(system: JsonObject, name: str, form: str) -> str:
    mean, std = system["mean"].get(name, system.get(name)), system["std"].get(name)
    if mean is None:
        return "–"
    return f"{mean:{form}}" if std is None else f"{mean:{form}} ± {std:{form}}"
