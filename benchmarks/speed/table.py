"""The table of `ganctl bench train`."""

from collections.abc import Iterator
from typing import Any

from ganctl.benchmarks.speed.compare import ratio

Record = dict[str, Any]
WHAT = {
    "ours": "the trainer with all of its callbacks, as `ganctl train`",
    "ours-eager": "the same without a CUDA graph",
    "step": "a bare loop around the trainer's step",
    "bare": "a bare loop written by hand: the same passes, losses and optimizers, nothing configurable",
    "straightforward": "a bare loop around the update as one would write it first: separate passes, double backward",
    "lightning": "PyTorch Lightning's tutorial as published, by lightning",
}
_PEERS = ("lightning", "straightforward")  # what rates are told in multiples of


def speed_table(results: Record) -> str:
    """The results in Markdown, with how they were made."""
    machine, cases = results["machine"], results["cases"]
    limits = ", ".join(f"{flops / 1e9:,.0f} GFLOP/s {name}" for name, flops in results["products_flops"].items())
    lines = [
        f"Medians of {results['repetitions']} interleaved repetitions of {results['seconds']:g} s, each in a process of"
        f" its own. {machine['device']}; cores: {machine['cores']}; torch {machine['torch']}, Python"
        f" {machine['python']}. Matrix products alone: {limits}.",
        "",
        "| preset, batch | loop | images/s | × its peer | share of the products | memory, MB | first step, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in _groups(cases):
        peer = next((case for case in group if case["system"] in _PEERS), None)
        lines += [_row(case, peer) for case in group]
    lines += ["", *(f"- {name}: {what}" for name, what in WHAT.items() if any(c["system"] == name for c in cases))]
    lines += [
        f"- a step of `{case['preset']}`, {case['batch']}, {case['precision']}, in the loop {case['system']} takes"
        f" {case['step_over_kernels']:.2f} × the sum of its kernels' times"
        for case in cases
        if case.get("step_over_kernels")
    ]
    lines += [f"- {name} was skipped: {why}" for name, why in results["skipped"].items()]
    if results.get("automatic"):
        lines += ["", *_precision_table(cases, results["automatic"])]
    if results.get("growth"):
        lines += [
            "",
            "| `conv`'s step with | images/s | µs an image | memory, MB |",
            "| --- | --- | --- | --- |",
            *(_growth_row(case) for case in results["growth"]),
        ]
    if length := results.get("run_length"):
        lines += [
            "",
            f"{length['steps']:,} steps in small epochs, with evaluations, pictures and checkpoints: a step takes"
            f" {1000 * length['second_quarter_step_seconds']:.2f} ms in the second quarter of the run and"
            f" {1000 * length['last_quarter_step_seconds']:.2f} ms in the last, where the process holds"
            f" {length['growth_bytes'] / 1e6:+.1f} MB more, of {length['memory_bytes'] / 1e6:,.0f} MB.",
        ]
    return "\n".join(lines) + "\n"


def _groups(cases: list[Record]) -> Iterator[list[Record]]:
    """Those of one preset and batch size together."""
    keys = dict.fromkeys((case["preset"], case["batch"]) for case in cases)
    for key in keys:
        yield [case for case in cases if (case["preset"], case["batch"]) == key]


def _precision_table(cases: list[Record], automatic: list[Record]) -> Iterator[str]:
    """The trainer's rate in each precision, and the precision that `auto` takes."""
    ours = [case for case in cases if case["system"] == "ours" and not case["assignments"]]
    names = list(dict.fromkeys(case["precision"] for case in ours))
    yield f"| preset, batch | {' | '.join(f'{name}, images/s' for name in names)} | `auto` takes | since |"
    yield f"| --- | {' | '.join('---' for _ in names)} | --- | --- |"
    for chosen in automatic:
        key = chosen["preset"], chosen["batch"]
        rates = {case["precision"]: case for case in ours if (case["preset"], case["batch"]) == key}
        base = rates[names[0]]
        cells = [f"{base['images_per_second']:,.0f}"]
        cells += [f"{rates[name]['images_per_second']:,.0f} ({ratio(rates[name], base):.2f} ×)" for name in names[1:]]
        what = f"`{chosen['preset']}`, {chosen['batch']}"
        yield f"| {what} | {' | '.join(cells)} | {chosen['precision']} | {chosen['reason']} |"


def _row(case: Record, peer: Record | None) -> str:
    times = "–" if peer is None or peer is case else f"{ratio(case, peer):.2f}"
    share = "–" if case["share_of_products"] is None else f"{case['share_of_products']:.2f}"
    memory = case["device_bytes"] or case["memory_bytes"]
    cells = [
        f"`{case['preset']}`, {case['batch']}",
        f"{case['system']} {case['precision']}",
        f"{case['images_per_second']:,.0f}",
        times,
        share,
        f"{memory / 1e6:,.0f}",
        f"{case['first_step_seconds']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _growth_row(case: Record) -> str:
    what = ", ".join([f"batch {case['batch']}", *(word.removeprefix("model.") for word in case["assignments"])])
    rate = case["images_per_second"]
    return f"| {what} | {rate:,.0f} | {1e6 / rate:,.0f} | {case['memory_bytes'] / 1e6:,.0f} |"
