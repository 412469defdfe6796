"""The commands `ganctl bench …`; each imports its modules only when it runs."""

import functools
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import print_json

_announce = functools.partial(click.echo, err=True)


def _out_option(default: str, text: str = "Folder for the results.") -> Callable[[Any], Any]:
    kind = PathParam(file_okay=False, path_type=Path)
    return click.option("--out", default=Path(default), type=kind, help=text)


def _seconds_option(default: float, text: str) -> Callable[[Any], Any]:
    return click.option("--seconds", default=default, type=click.FloatRange(min=0.1), help=text)


def _repetitions_option(default: int) -> Callable[[Any], Any]:
    text = "Repetitions of all, interleaved."
    return click.option("--repetitions", default=default, type=click.IntRange(min=1), help=text)


@click.group()
def bench() -> None:
    """Measure training, exports, quality and serving, against installed peers."""


@bench.command()
@_seconds_option(4.0, "Length of each measurement.")
@_repetitions_option(5)
@click.option("--beside", is_flag=True, help="Instead: trainings that share the cores, with and without turns.")
@_out_option("bench-train")
@json_option
def train(seconds: float, repetitions: int, beside: bool, out: Path, as_json: bool) -> None:
    """Compare the trainer's speed with bare loops, the tutorial under Lightning, and plain matrix products.

    Writes results.json, table.md and rates.png. Five repetitions take a quarter of an hour.

    --beside compares one training alone with several at once on the same cores, on the CPU, and writes results.json
    and table.md. Five repetitions take ten minutes.
    """
    if beside:
        from ganctl.benchmarks.speed.beside import beside_table, measure

        results = measure(seconds=seconds, repetitions=repetitions, announce=_announce)
        text = beside_table(results)
        _print(results, text, _save(out, results, text, {}), as_json)
        return
    _require_matplotlib()
    from ganctl.benchmarks.figures import draw_rates
    from ganctl.benchmarks.speed.compare import measure_all
    from ganctl.benchmarks.speed.table import speed_table

    results = measure_all(seconds=seconds, repetitions=repetitions, announce=_announce)
    text = speed_table(results)
    files = _save(out, results, text, {"rates.png": lambda path: draw_rates(results, path)})
    _print(results, text, files, as_json)


@bench.command()
@click.option(
    "--data", "sources", multiple=True, default=["mnist"], metavar="DATA", help="Data set, as for `train`; repeatable."
)
@_out_option("bench-start")
@json_option
def start(sources: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Time the start of a training: to its first step and first picture, with an empty cache and with a filled one.

    Writes results.json and table.md. A data set takes a minute or two.
    """
    from ganctl.benchmarks.start import measure, start_table

    results = measure(sources, announce=_announce)
    text = start_table(results)
    _print(results, text, _save(out, results, text, {}), as_json)


@bench.command()
@click.option("--only", "names", multiple=True, metavar="AXIS", help="Only this axis; may be repeated.")
@click.option("--max-images", default=1_000_000, type=click.IntRange(min=1000), help="Leave out larger data sets.")
@_out_option("bench-growth")
@json_option
def growth(names: tuple[str, ...], max_images: int, out: Path, as_json: bool) -> None:
    """Measure how time and memory of a training grow with one size at a time, on the CPU.

    The axes: steps of the run, images of the data set, their size, classes, ranks, batch, channels of the networks,
    latent. Each point is a `ganctl train` on synthetic images.

    Writes results.json, table.md and growth.png. All axes take ten minutes, and 7 GB in the folder TMPDIR.
    """
    _require_matplotlib()
    from ganctl.benchmarks.figures import draw_growth
    from ganctl.benchmarks.growth.axes import choose_axes
    from ganctl.benchmarks.growth.measure import measure
    from ganctl.benchmarks.growth.table import growth_table

    results = measure(choose_axes(names), max_images=max_images, announce=_announce)
    text = growth_table(results)
    files = _save(out, results, text, {"growth.png": lambda path: draw_growth(results, path)})
    _print(results, text, files, as_json)


@bench.command()
@click.option("--source", type=PathParam(path_type=Path), help="Run or checkpoint.  [default: `quick`, untrained]")
@_seconds_option(0.3, "Length of each measurement.")
@_repetitions_option(5)
@_out_option("bench-export")
@json_option
def export(source: Path | None, seconds: float, repetitions: int, out: Path, as_json: bool) -> None:
    """Compare size and latency of every form of an export: in memory, TorchScript, PT2, ONNX, float16, int8.

    Writes results.json, table.md and forms.png. Five repetitions take two minutes.
    """
    _require_matplotlib()
    from ganctl.benchmarks.export_forms import draw_forms, forms_table, measure

    results = measure(source, seconds=seconds, repetitions=repetitions, announce=_announce)
    text = forms_table(results)
    files = _save(out, results, text, {"forms.png": lambda path: draw_forms(results, path)})
    _print(results, text, files, as_json)


@bench.command()
@click.option(
    "--data", metavar="DATA", help="Data set: folder, archive, file or name, as for `train`.  [default: mnist]"
)
@_seconds_option(120.0, "Training time of each run.")
@click.option(
    "--draws", "seeds", type=click.IntRange(min=1), help="Runs of each system.  [default: 1 with --data, else 3]"
)
@click.option("--system", "names", multiple=True, metavar="NAME", help="Only this system; may be repeated.")
@click.option(
    "--num-images",
    default=10_000,
    type=click.IntRange(200, 10_000),
    help="Number of images to score, at most as many as there are test images.",
)
@_out_option("bench-quality", "Folder for the results; complete runs in it are reused.")
@json_option
def quality(
    data: str | None,
    seconds: float,
    seeds: int | None,
    names: tuple[str, ...],
    num_images: int,
    out: Path,
    as_json: bool,
) -> None:
    """Train GANs of other projects and our presets for the same time, and score all on the same test images.

    The others: PyTorch's DCGAN, Lightning's basic GAN, torch-mimicry's SNGAN, lightweight-gan, stylegan2_pytorch, and
    two of Lucic et al. 2018. A system whose package is absent is skipped, with the command that installs it.

    Writes results.json, table.md, samples.png (the first images of each), the scored images in runs/, and fd.png if
    matplotlib is installed. Three seeds of ten systems take an hour plus scoring.
    """
    from ganctl.benchmarks.errors import BenchError
    from ganctl.benchmarks.quality.compare import QualityBenchmark
    from ganctl.benchmarks.quality.samples import samples_picture
    from ganctl.benchmarks.table import table
    from ganctl.files import write_file

    benchmark = QualityBenchmark(
        out,
        seconds=seconds,
        seeds=seeds or (3 if data is None else 1),
        num_images=num_images,
        names=names,
        announce=_announce,
        source=data or "mnist",
    )
    results = benchmark.run()
    if not results["systems"]:
        raise BenchError(f"every run failed: {results['failed']}")
    text = table(results)
    first_runs = [(system["name"], system["runs"][0]["seed"]) for system in results["systems"]]  # not the best ones
    rows = [("real images", benchmark.real_samples())]
    rows += [(name, benchmark.samples(name, seed)) for name, seed in first_runs]
    figures: dict[str, Callable[[Path], object]] = {
        "samples.png": lambda path: write_file(path, samples_picture(rows)),
    }
    if importlib.util.find_spec("matplotlib") is not None:
        from ganctl.benchmarks.figures import draw_curves

        figures["fd.png"] = lambda path: draw_curves(results, path)
    files = _save(out, results, text, figures)
    if results["failed"]:
        click.echo(text, err=as_json)
        raise BenchError(f"{', '.join(results['failed'])} failed; the other runs are in {out}. Run the command again.")
    without_runs = [{key: value for key, value in system.items() if key != "runs"} for system in results["systems"]]
    _print(results | {"systems": without_runs}, text, files, as_json)


@bench.command()
@click.option(
    "--source", type=PathParam(path_type=Path), help="Run or export.  [default: `quick`, trained for 200 steps]"
)
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this server; may be repeated.")
@_seconds_option(3.0, "Length of each measurement.")
@_repetitions_option(3)
@click.option("--warm-up", default=8.0, type=click.FloatRange(min=0), help="Seconds of warm-up at each start.")
@click.option(
    "--into", type=PathParam(exists=True, dir_okay=False, path_type=Path), help="Markdown file for the table."
)
@_out_option("bench-serve")
@json_option
def serve(
    source: Path | None,
    names: tuple[str, ...],
    seconds: float,
    repetitions: int,
    warm_up: float,
    into: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Load-test our server, a stock TorchServe, LitServe, FastAPI, and a TorchServe that returns constant bytes.

    Writes results.json, table.md and serving.png. Three repetitions take half an hour.
    """
    _require_matplotlib()
    from ganctl.benchmarks.figures import draw_serving
    from ganctl.benchmarks.serving.run import measure_all
    from ganctl.benchmarks.serving.table import replace_table, serve_table

    results = measure_all(
        source=source, names=names, seconds=seconds, repetitions=repetitions, warm_up=warm_up, announce=_announce
    )
    text = serve_table(results)
    files = _save(out, results, text, {"serving.png": lambda path: draw_serving(results, path)})
    if into is not None:
        replace_table(into, text)
    _print(results, text, files, as_json)


def _save(
    out: Path, results: Mapping[str, Any], text: str, figures: Mapping[str, Callable[[Path], object]]
) -> dict[str, str]:
    """Writes results.json, table.md and the figures into a folder; returns the absolute path of each file."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "table.md").write_text(text, "utf-8")
    for name, draw in figures.items():
        draw(out / name)
    return {name: str((out / name).resolve()) for name in ("results.json", "table.md", *figures)}


def _print(results: dict[str, Any], text: str, files: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        print_json(results | {"files": files})
    else:
        click.echo(text)
        click.echo(f"Files: {', '.join(files.values())}")


def _require_matplotlib() -> None:
    """Raises BenchError before anything is measured if matplotlib is not installed."""
    from ganctl.benchmarks.errors import BenchError
    from ganctl.benchmarks.systems import INSTALL

    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError(f"the figures need the package matplotlib: {INSTALL}")
