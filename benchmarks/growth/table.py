"""Results table of `ganctl bench growth`, and the list of what grows."""

from collections.abc import Iterator

from ganctl.benchmarks.growth.axes import DESCRIPTIONS
from ganctl.benchmarks.report import JsonObject, markdown_table

_MAX_FLAT = 1.25  # from the smallest to the largest value of an axis; the machine's speed varies by as much
_MEASURES = {  # name → column, factor of its unit
    "seconds_per_image": ("µs per image", 1e6),
    "cpu_seconds_per_image": ("CPU µs per image", 1e6),
    "first_start_seconds": ("first start, s", 1.0),
    "start_seconds": ("start, s", 1.0),
    "evaluation_seconds": ("evaluation, CPU s", 1.0),
    "private_bytes": ("private memory, MB", 1e-6),
    "peak_bytes": ("peak resident, MB", 1e-6),
    "first_peak_bytes": ("of the first run, MB", 1e-6),
}


def growth_table(results: JsonObject) -> str:
    """Returns the results in Markdown: a table for each axis, and the list of what is not flat."""
    machine, base = results["machine"], results["base"]
    lines = [
        f"Base: {', '.join(f'{name} {value:,}' for name, value in base.items())}; preset `conv`, fp32. One size differs"
        " in each table. Times per image are those of the second half of the run, without evaluations. The first start"
        f" is that of the first run on a data set. CPU; cores: {machine['cores']}; torch {machine['torch']}, Python"
        f" {machine['python']}.",
        "",
    ]
    for axis, points in results["axes"].items():
        head = [f"`{axis}`", *(column for column, _ in _MEASURES.values())]
        rows = [
            [
                f"{point['value']:,}",
                *(f"{point[name] * factor:.3g}" if abs(point[name] * factor) < 100 else f"{point[name] * factor:,.0f}"
                  for name, (_, factor) in _MEASURES.items()),
            ]
            for point in points
        ]  # fmt: skip
        lines += [f"{axis}: {DESCRIPTIONS[axis]}", "", *markdown_table(head, rows), ""]
    grown = [f"- {text}" for text in not_flat(results)]
    title = f"Not flat (more than {_MAX_FLAT} × from the smallest to the largest value):"
    lines += [title, "", *(grown or ["- nothing"])]
    return "\n".join(lines) + "\n"


def not_flat(results: JsonObject) -> Iterator[str]:
    """Yields a line for each axis with measures that grow: their ratio from the smallest to the largest value."""
    for axis, points in results["axes"].items():
        first, last = points[0], points[-1]
        ratios = {column: last[name] / first[name] for name, (column, _) in _MEASURES.items()}
        if grown := [f"{column.split(',')[0]} {ratio:.1f} ×" for column, ratio in ratios.items() if ratio > _MAX_FLAT]:
            yield f"{axis}, {last['value'] / first['value']:,.0f} ×: {'; '.join(grown)}"
