"""Results tables of `ganctl bench serve`, and their insertion into a Markdown file."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from ganctl.benchmarks.errors import BenchUsageError
from ganctl.benchmarks.report import JsonObject, markdown_table
from ganctl.benchmarks.serving.cases import CONNECTIONS, DESCRIPTIONS
from ganctl.benchmarks.serving.systems import CEILING, LITSERVE, NATIVE_CEILING
from ganctl.benchmarks.speed.compare import ratio

START_MARKER, END_MARKER = "<!-- ganctl bench serve: begins -->", "<!-- ganctl bench serve: ends -->"
_MAX = max(CONNECTIONS["POST"])


def serve_table(results: JsonObject) -> str:
    """Returns the results in Markdown: rates, latencies and memory; medians over the repetitions."""
    machine, systems = results["machine"], results["systems"]
    points = [(kind, number) for kind in ("GET", "POST") for number in CONNECTIONS[kind]]
    heads = [f"{kind} {number}" for kind, number in points]
    lines = [
        f"Medians of {results['repetitions']} interleaved repetitions. Each starts one server at a time, warms it up"
        f" for {results['warm_up']:g} s and measures each figure for {results['seconds']:g} s; the load generator"
        f" ({results['load_generator']}) runs on the same cores. {machine['device']}; cores: {machine['cores']};"
        f" Python {machine['python']}.",
        "",
        "Requests/s by number of connections (in brackets: the share of refused requests):",
        "",
        *_table(["system", *heads], systems, lambda system: [_rate(_case(system, *point)) for point in points]),
        "",
        "Latency, p50 / p99, ms:",
        "",
        *_table(["system", *heads], systems, lambda system: [_latency(_case(system, *point)) for point in points]),
        "",
        f"Other figures: rates over {_MAX} connections relative to the host's ceiling and LitServe (medians of the"
        f" repetitions' ratios); {_title('JSON')}; {_title('grid')}; the p99 of {_title('beside')};"
        " time from start to ready; and the final memory: RSS and PSS of the largest worker, and PSS of all processes:",
        "",
        *_table(
            ["system", f"GET {_MAX}, × ceiling", f"POST {_MAX}, × ceiling", f"POST {_MAX}, × LitServe", "JSON, /s",
             "grids, images/s", "p99, ms", "beside, p99, ms", "ready, s", "RSS, MB", "PSS, MB", "all, MB"],
            systems, lambda system: _other_cells(system, systems),
        ),
        "",
        *(f"- {kind}: {description}" for kind, description in DESCRIPTIONS.items()),
        *(f"- {system['name']}: {system['what']}" for system in systems),
        *(f"- {name} was skipped: {why}" for name, why in results["skipped"].items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def replace_table(document: Path, table: str) -> None:
    """Replaces the text between the markers of a Markdown file by the table.

    Raises:
        BenchUsageError: a marker is absent.
    """
    text = document.read_text("utf-8")
    before, start, rest = text.partition(START_MARKER)
    _, end, after = rest.partition(END_MARKER)
    if not start or not end:
        raise BenchUsageError(
            f"--into {document}: expected the lines {START_MARKER} and {END_MARKER}. Add them where the table belongs."
        )
    document.write_text(f"{before}{START_MARKER}\n\n{table}\n{END_MARKER}{after}", "utf-8")


def _table(heads: Sequence[str], systems: Sequence[JsonObject], cells: Callable[[JsonObject], list[str]]) -> list[str]:
    return markdown_table(heads, [[system["name"], *cells(system)] for system in systems])


def _case(system: JsonObject | None, kind: str, connections: int) -> JsonObject | None:
    """Returns the figures of one case, or None if the system was not measured with it."""
    if system is None:
        return None
    matching = (case for case in system["cases"] if (case["kind"], case["connections"]) == (kind, connections))
    return next(matching, None)


def _rate(case: JsonObject | None) -> str:
    if case is None:
        return "–"
    refused = statistics.median(case["refused"])
    return f"{statistics.median(case['rates']):,.0f}" + (f" ({refused:.0%})" if refused >= 0.005 else "")


def _latency(case: JsonObject | None) -> str:
    if case is None:
        return "–"
    return " / ".join(f"{statistics.median(case[name]):.1f}" for name in ("p50_ms", "p99_ms"))


def _times(case: JsonObject | None, other: JsonObject | None) -> str:
    return "–" if case is None or other is None or case is other else f"{ratio(case, other):.2f}"


def _other_cells(system: JsonObject, systems: Sequence[JsonObject]) -> list[str]:
    by_name = {other["name"]: other for other in systems}
    ceiling = by_name.get(NATIVE_CEILING if system["name"].startswith("native") else CEILING)
    get, post = (_case(system, kind, _MAX) for kind in ("GET", "POST"))
    grid, beside = (_case(system, kind, *CONNECTIONS[kind]) for kind in ("grid", "beside"))
    memory = {name: statistics.median(each[name] for each in system["memory"]) for name in ("rss", "pss", "pss_all")}
    return [
        _times(get, _case(ceiling, "GET", _MAX)),
        _times(post, _case(ceiling, "POST", _MAX)),
        _times(post, _case(by_name.get(LITSERVE), "POST", _MAX)),
        _rate(_case(system, "JSON", *CONNECTIONS["JSON"])),
        "–" if grid is None else f"{statistics.median(grid['rates']) * grid['images']:,.0f}",
        "–" if grid is None else f"{statistics.median(grid['p99_ms']):.1f}",
        "–" if beside is None else f"{statistics.median(beside['p99_ms']):.1f}",
        f"{statistics.median(system['ready_seconds']):.1f}",
        *(f"{memory[name]:,.0f}" for name in ("rss", "pss", "pss_all")),
    ]


def _title(kind: str) -> str:
    return f"{kind} over {CONNECTIONS[kind][0]} connections"
