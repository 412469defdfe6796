"""Measures size and latency of every form of an exported generator, at several batch sizes, on one and two threads."""

import io
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganctl.benchmarks.report import JsonObject, machine, markdown_table
from ganctl.exports.formats import get_format, onnx
from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs, hide_exporter_warnings
from ganctl.exports.gate import median_seconds
from ganctl.training.checkpoint.run_dir import find_checkpoint
from ganctl.training.config.resolve import resolve
from ganctl.training.images.source import load_generator
from ganctl.training.models.base import Generator, ImageShape
from ganctl.training.models.build import build_generator

SIZES = (1, 8, 64, 256)
THREADS = (1, 2)
_DIGITS = ImageShape(1, 28, 28), 10
_ONNX = ("onnx", "onnx-fp16", "onnx-int8")

Run = Callable[..., Tensor]


def measure(
    source: Path | None, *, seconds: float, repetitions: int, announce: Callable[[str], None] = lambda text: None
) -> JsonObject:
    """Times all forms of a generator, interleaved.

    Args:
        source: a run or a checkpoint; None for untrained networks of the preset `quick`, which are as fast.
        seconds: length of each measurement.
        repetitions: of all measurements.
        announce: receives progress messages.

    Returns:
        `machine`, `source` and `forms`: a list with name, bytes (None for the generator in memory) and `milliseconds`
        by threads and N: medians over the repetitions of the median of the calls.
    """
    generator = load_generator(find_checkpoint(source))[0] if source else _untrained()
    files = {name: get_format(name).write(generator, {}) for name in (*_ONNX, "torchscript", "pt2")}
    files["traced"] = _trace(generator)
    durations: dict[tuple[str, int, int], list[float]] = {}
    before = torch.get_num_threads()
    try:
        for repetition in range(repetitions):
            for threads in THREADS:
                torch.set_num_threads(threads)
                runs = _load(generator, files, threads)
                for n in SIZES:
                    for name, run in runs.items():
                        call = partial(run, *example_inputs(generator, n))
                        durations.setdefault((name, threads, n), []).append(median_seconds(call, seconds))
            announce(f"repetition {repetition + 1} of {repetitions}")
    finally:
        torch.set_num_threads(before)
    forms = [
        {
            "name": name,
            "bytes": len(files[name]) if name in files else None,
            "milliseconds": {
                str(threads): {str(n): 1e3 * statistics.median(durations[name, threads, n]) for n in SIZES}
                for threads in THREADS
            },
        }
        for name in ("eager", "traced", "torchscript", "pt2", *_ONNX)
    ]
    return {"machine": machine(), "source": str(source) if source else "quick, untrained", "forms": forms}


def _untrained() -> Generator:
    generator = build_generator(resolve(preset="quick")[0].model, *_DIGITS)
    return generator.eval().requires_grad_(False)


def _trace(generator: Generator) -> bytes:
    """Returns a TorchScript file that is traced and not frozen."""
    buffer = io.BytesIO()
    with hide_exporter_warnings():
        torch.jit.save(torch.jit.trace(UnitRangeGenerator(generator).eval(), example_inputs(generator, 2)), buffer)
    return buffer.getvalue()


def _load(generator: Generator, files: Mapping[str, bytes], threads: int) -> dict[str, Run]:
    runs: dict[str, Run] = {"eager": UnitRangeGenerator(generator).eval()}
    for name in ("traced", "torchscript", "pt2"):
        runs[name] = get_format("torchscript" if name == "traced" else name).load(files[name])
    for name in _ONNX:
        runs[name] = onnx.load(files[name], threads=threads)
    return runs


def forms_table(results: JsonObject) -> str:
    """Returns the results in Markdown: milliseconds, and × the speed of the ONNX file in parentheses."""
    base = next(form for form in results["forms"] if form["name"] == "onnx")
    cells = [(str(threads), str(n)) for threads in THREADS for n in SIZES]
    head = ["form", "MB", *(f"N = {n}, {threads} thread{'s' * (threads != '1')}" for threads, n in cells)]
    rows = [
        [
            form["name"],
            "–" if form["bytes"] is None else f"{form['bytes'] / 1e6:.2f}",
            *(_cell(form["milliseconds"][threads][n], base["milliseconds"][threads][n]) for threads, n in cells),
        ]
        for form in results["forms"]
    ]
    device = results["machine"]
    lines = [
        f"Generator: {results['source']}. Milliseconds for N images, and in parentheses × the speed of `onnx`.",
        f"{device['device']}; cores: {device['cores']}; torch {device['torch']}, Python {device['python']}.",
        "",
        *markdown_table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def _cell(milliseconds: float, base: float) -> str:
    return f"{milliseconds:.3g} ({base / milliseconds:.2f})"


def draw_forms(results: JsonObject, path: Path) -> None:
    """Draws images per second over N for each form, one panel for each number of threads."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(THREADS), figsize=(11, 4.5), layout="constrained", sharey=True)
    for threads, axes in zip(THREADS, panels, strict=True):
        for i, form in enumerate(results["forms"]):
            times: Mapping[str, Any] = form["milliseconds"][str(threads)]
            rates = [1e3 * n / times[str(n)] for n in SIZES]
            axes.plot(SIZES, rates, marker="osD^vPX"[i], label=form["name"])
        axes.set(xscale="log", yscale="log", xlabel="N", title=f"{threads} thread{'s' * (threads > 1)}")
        axes.set_xticks(SIZES, [str(n) for n in SIZES])
        axes.grid(visible=True, color="#dddddd")
    panels[0].set_ylabel("images per second")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
