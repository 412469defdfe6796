"""The tables of `ganctl bench serve`, and where they stand in a document."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganctl.benchmarks.errors import BenchUsageError
from ganctl.benchmarks.serving.cases import CONNECTIONS, WHAT
from ganctl.benchmarks.serving.systems import CEILING, LITSERVE
from ganctl.benchmarks.speed.compare import ratio

Record = dict[str, Any]
BEGINS, ENDS = "<!-- ganctl bench serve: begins -->", "<!-- ganctl bench serve: ends -->"
_MOST = max(CONNECTIONS["POST"])


def serve_table(results: Record) -> str:
    """The results in Markdown: rates, latencies, and what each server needs; medians over the repetitions."""
    machine, systems = results["machine"], results["systems"]
    points = [(kind, number) for kind in ("GET", "POST") for number in CONNECTIONS[kind]]
    heads = [f"{kind} {number}" for kind, number in points]
    lines = [
        f"Medians of {results['repetitions']} interleaved repetitions, each a fresh start of each server alone,"
        f" {results['warm_up']:g} s of load that do not count, then {results['seconds']:g} s for each figure; the load"
        f" generator on the same cores. {machine['device']}; cores: {machine['cores']}; Python {machine['python']}.",
        "",
        "Requests/s, over so many connections (in brackets: the share that was refused):",
        "",
        *_table(["system", *heads], systems, lambda system: [_rate(_case(system, *point)) for point in points]),
        "",
        "Latency, p50 / p99, ms:",
        "",
        *_table(["system", *heads], systems, lambda system: [_latency(_case(system, *point)) for point in points]),
        "",
        f"The rest: rates over {_MOST} connections beside the ceiling's and LitServe's (medians of the ratios within"
        f" repetitions); {_title('JSON')}; {_title('grid')}; start to ready; and the memory after all that, of the"
        " largest worker and as PSS of all processes:",
        "",
        *_table(
            ["system", f"GET {_MOST}, × ceiling", f"POST {_MOST}, × ceiling", f"POST {_MOST}, × LitServe", "JSON, /s",
             "grids, images/s", "p99, ms", "ready, s", "RSS, MB", "PSS, MB", "all, MB"],
            systems, lambda system: _rest(system, systems),
        ),
        "",
        *(f"- {kind}: {what}" for kind, what in WHAT.items()),
        *(f"- {system['name']}: {system['what']}" for system in systems),
        *(f"- {name} was left out: {why}" for name, why in results["skipped"].items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def replace_table(document: Path, table: str) -> None:
    """Puts the table between the markers of a Markdown file.

    Raises:
        BenchUsageError: they are not there.
    """
    text = document.read_text("utf-8")
    before, begins, rest = text.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not begins or not ends:
        raise BenchUsageError(f"--into {document}: has no two lines {BEGINS} and {ENDS}; write them where it belongs")
    document.write_text(f"{before}{BEGINS}\n\n{table}\n{ENDS}{after}", "utf-8")


def _table(heads: Sequence[str], systems: Sequence[Record], cells: Callable[[Record], list[str]]) -> list[str]:
    rows = [[system["name"], *cells(system)] for system in systems]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _case(system: Record | None, kind: str, connections: int) -> Record | None:
    """The figures of one case; None where the system was not asked so."""
    if system is None:
        return None
    same = (case for case in system["cases"] if (case["kind"], case["connections"]) == (kind, connections))
    return next(same, None)


def _rate(case: Record | None) -> str:
    if case is None:
        return "–"
    refused = statistics.median(case["refused"])
    return f"{statistics.median(case['rates']):,.0f}" + (f" ({refused:.0%})" if refused >= 0.005 else "")


def _latency(case: Record | None) -> str:
    if case is None:
        return "–"
    return " / ".join(f"{statistics.median(case[name]):.1f}" for name in ("p50_ms", "p99_ms"))


def _times(case: Record | None, other: Record | None) -> str:
    return "–" if case is None or other is None or case is other else f"{ratio(case, other):.2f}"


def _rest(system: Record, systems: Sequence[Record]) -> list[str]:
    named = {other["name"]: other for other in systems}
    get, post = (_case(system, kind, _MOST) for kind in ("GET", "POST"))
    grid = _case(system, "grid", *CONNECTIONS["grid"])
    memory = {name: statistics.median(each[name] for each in system["memory"]) for name in ("rss", "pss", "pss_all")}
    return [
        _times(get, _case(named.get(CEILING), "GET", _MOST)),
        _times(post, _case(named.get(CEILING), "POST", _MOST)),
        _times(post, _case(named.get(LITSERVE), "POST", _MOST)),
        _rate(_case(system, "JSON", *CONNECTIONS["JSON"])),
        "–" if grid is None else f"{statistics.median(grid['rates']) * grid['images']:,.0f}",
        "–" if grid is None else f"{statistics.median(grid['p99_ms']):.1f}",
        f"{statistics.median(system['ready_seconds']):.1f}",
        *(f"{memory[name]:,.0f}" for name in ("rss", "pss", "pss_all")),
    ]


def _title(kind: str) -> str:
    return f"{kind} over {CONNECTIONS[kind][0]} connections"
