"""Results table of `ganctl bench train`."""

from collections.abc import Iterator

from ganctl.benchmarks.report import JsonObject, markdown_table
from ganctl.benchmarks.speed.compare import ratio

DESCRIPTIONS = {
    "ours": "the trainer with all default callbacks, as in `ganctl train`",
    "ours-eager": "the trainer without a CUDA graph",
    "step": "a bare loop around the trainer's step",
    "bare": "a hand-written bare loop: the same passes, losses and optimizers, no options",
    "straightforward": "a bare loop around a straightforward update: separate passes, double backward",
    "lightning": "PyTorch Lightning's tutorial as published, by lightning",
}
_PEERS = ("lightning", "straightforward")  # the reference of relative rates
_HEAD = ("preset, batch", "loop", "images/s", "× its peer", "share of the products", "memory, MB", "first step, s")


def speed_table(results: JsonObject) -> str:
    """Returns the results in Markdown, with the conditions."""
    machine, cases = results["machine"], results["cases"]
    limits = ", ".join(f"{flops / 1e9:,.0f} GFLOP/s {name}" for name, flops in results["products_flops"].items())
    lines = [
        f"Medians of {results['repetitions']} interleaved repetitions of {results['seconds']:g} s, each in a process of"
        f" its own. {machine['device']}; cores: {machine['cores']}; torch {machine['torch']}, Python"
        f" {machine['python']}. Matrix products alone: {limits}.",
        "",
    ]
    rows = []
    for group in groups(cases):
        peer = next((case for case in group if case["system"] in _PEERS), None)
        rows += [_cells(case, peer) for case in group]
    lines += [*markdown_table(_HEAD, rows), ""]
    measured = {case["system"] for case in cases}
    lines += [f"- {name}: {description}" for name, description in DESCRIPTIONS.items() if name in measured]
    lines += [
        f"- a step of `{case['preset']}`, {case['batch']}, {case['precision']}, in the loop {case['system']} takes"
        f" {case['step_over_kernels']:.2f} × the sum of its kernels' times"
        for case in cases
        if case.get("step_over_kernels")
    ]
    lines += [f"- {name} was skipped: {why}" for name, why in results["skipped"].items()]
    if results.get("automatic"):
        lines += ["", *_precision_table(cases, results["automatic"])]
    return "\n".join(lines) + "\n"


def groups(cases: list[JsonObject]) -> Iterator[list[JsonObject]]:
    """Groups the cases by preset and batch size."""
    keys = dict.fromkeys((case["preset"], case["batch"]) for case in cases)
    for key in keys:
        yield [case for case in cases if (case["preset"], case["batch"]) == key]


def _precision_table(cases: list[JsonObject], automatic: list[JsonObject]) -> list[str]:
    """Returns the table of the trainer's rate in each precision, and of the precision that `auto` chooses."""
    ours = [case for case in cases if case["system"] == "ours" and not case["assignments"]]
    names = list(dict.fromkeys(case["precision"] for case in ours))
    rows = []
    for chosen in automatic:
        key = chosen["preset"], chosen["batch"]
        rates = {case["precision"]: case for case in ours if (case["preset"], case["batch"]) == key}
        base = rates[names[0]]
        cells = [f"{base['images_per_second']:,.0f}"]
        cells += [f"{rates[name]['images_per_second']:,.0f} ({ratio(rates[name], base):.2f} ×)" for name in names[1:]]
        rows.append([f"`{chosen['preset']}`, {chosen['batch']}", *cells, chosen["precision"], chosen["reason"]])
    head = ["preset, batch", *(f"{name}, images/s" for name in names), "`auto` chooses", "reason"]
    return markdown_table(head, rows)


def _cells(case: JsonObject, peer: JsonObject | None) -> list[str]:
    times = "–" if peer is None or peer is case else f"{ratio(case, peer):.2f}"
    share = "–" if case["share_of_products"] is None else f"{case['share_of_products']:.2f}"
    memory = case["device_bytes"] or case["memory_bytes"]
    return [
        f"`{case['preset']}`, {case['batch']}",
        f"{case['system']} {case['precision']}",
        f"{case['images_per_second']:,.0f}",
        times,
        share,
        f"{memory / 1e6:,.0f}",
        f"{case['first_step_seconds']:.1f}",
    ]
