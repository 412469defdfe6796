"""The commands `ganctl bench …`; each imports its modules only when it runs."""

import importlib.util
import json
from pathlib import Path

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import emit


@click.group()
def bench() -> None:
    """Measure training, quality and serving, against installed peers."""


@bench.command()
@click.option(
    "--seconds", default=4.0, show_default=True, type=click.FloatRange(min=0.1), help="Length of each measurement."
)
@click.option(
    "--repetitions", default=5, show_default=True, type=click.IntRange(min=1), help="Repetitions of all, interleaved."
)
@click.option("--growth/--no-growth", default=True, help="Also vary batch and network size, and time a long run.")
@click.option(
    "--out",
    default=Path("bench-train"),
    show_default=True,
    type=PathParam(file_okay=False, path_type=Path),
    help="Folder for the results.",
)
@json_option
def train(seconds: float, repetitions: int, growth: bool, out: Path, as_json: bool) -> None:
    """Compare the trainer's speed with bare loops, the tutorial under Lightning, and plain matrix products.

    Writes results.json, table.md and rates.png. Five repetitions take a quarter of an hour.
    """
    from ganctl.benchmarks.speed.compare import measure_all
    from ganctl.benchmarks.speed.table import speed_table

    _require_matplotlib()
    from ganctl.benchmarks.figures import draw_rates

    results = measure_all(
        seconds=seconds, repetitions=repetitions, growth=growth, announce=lambda text: click.echo(text, err=True)
    )
    text = speed_table(results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "table.md").write_text(text, "utf-8")
    draw_rates(results, out / "rates.png")
    if as_json:
        emit(
            results
            | {"files": {name: str((out / name).resolve()) for name in ("results.json", "table.md", "rates.png")}}
        )
    else:
        click.echo(text)
        click.echo(f"results.json, table.md and rates.png are in {out}")


@bench.command()
@click.option(
    "--seconds", default=120.0, show_default=True, type=click.FloatRange(min=1), help="Training time of each run."
)
@click.option("--draws", "seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each system.")
@click.option("--system", "names", multiple=True, metavar="NAME", help="Only this system; may be repeated.")
@click.option(
    "--num-images",
    default=10_000,
    show_default=True,
    type=click.IntRange(200, 10_000),
    help="Number of images to score.",
)
@click.option(
    "--out",
    default=Path("bench-quality"),
    show_default=True,
    type=PathParam(file_okay=False, path_type=Path),
    help="Folder for the results; complete runs in it are reused.",
)
@json_option
def quality(seconds: float, seeds: int, names: tuple[str, ...], num_images: int, out: Path, as_json: bool) -> None:
    """Train the tutorial, two known GANs and our presets for the same time, and score all on the same test images.

    Writes results.json, table.md, samples.png and fd.png. Three seeds of six systems take 40 minutes plus scoring.
    """
    from ganctl.benchmarks.errors import BenchError
    from ganctl.benchmarks.quality.compare import QualityBenchmark, real_samples
    from ganctl.benchmarks.table import table

    _require_matplotlib()
    from ganctl.benchmarks.figures import draw_curves, draw_samples

    comparison = QualityBenchmark(
        out,
        seconds=seconds,
        seeds=seeds,
        num_images=num_images,
        names=names,
        announce=lambda text: click.echo(text, err=True),
    )
    results = comparison.run()
    if not results["systems"]:
        raise BenchError(f"every run failed: {results['failed']}")
    text = table(results)
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "table.md").write_text(text, "utf-8")
    first_runs = [(system["name"], system["runs"][0]["seed"]) for system in results["systems"]]  # not the best ones
    rows = [("real images", real_samples()), *((name, comparison.samples(name, seed)) for name, seed in first_runs)]
    draw_samples(rows, out / "samples.png")
    draw_curves(results, out / "fd.png")
    if results["failed"]:
        click.echo(text, err=as_json)
        raise BenchError(f"{', '.join(results['failed'])} failed; the other runs are in {out}. Run the command again.")
    if as_json:
        files = {name: str((out / name).resolve()) for name in ("results.json", "table.md", "samples.png", "fd.png")}
        without_runs = [{key: value for key, value in system.items() if key != "runs"} for system in results["systems"]]
        emit(results | {"systems": without_runs, "files": files})
    else:
        click.echo(text)
        click.echo(f"results.json, table.md, samples.png and fd.png are in {out}")


@bench.command()
@click.option(
    "--source", type=PathParam(path_type=Path), help="Run or export.  [default: `quick`, trained for 200 steps]"
)
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this server; may be repeated.")
@click.option(
    "--seconds", default=3.0, show_default=True, type=click.FloatRange(min=0.1), help="Length of each measurement."
)
@click.option(
    "--repetitions", default=3, show_default=True, type=click.IntRange(min=1), help="Repetitions of all, interleaved."
)
@click.option(
    "--warm-up", default=8.0, show_default=True, type=click.FloatRange(min=0), help="Seconds of warm-up at each start."
)
@click.option(
    "--into", type=PathParam(exists=True, dir_okay=False, path_type=Path), help="Markdown file for the table."
)
@click.option(
    "--out",
    default=Path("bench-serve"),
    show_default=True,
    type=PathParam(file_okay=False, path_type=Path),
    help="Folder for the results.",
)
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
        source=source,
        names=names,
        seconds=seconds,
        repetitions=repetitions,
        warm_up=warm_up,
        announce=lambda text: click.echo(text, err=True),
    )
    text = serve_table(results)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (out / "table.md").write_text(text, "utf-8")
    draw_serving(results, out / "serving.png")
    if into is not None:
        replace_table(into, text)
    if as_json:
        files = {name: str((out / name).resolve()) for name in ("results.json", "table.md", "serving.png")}
        emit(results | {"files": files})
    else:
        click.echo(text)
        click.echo(f"results.json, table.md and serving.png are in {out}")


def _require_matplotlib() -> None:
    """Raises BenchError before anything is measured if matplotlib is not installed."""
    from ganctl.benchmarks.errors import BenchError
    from ganctl.benchmarks.systems import INSTALL

    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError(f"the figures need the package matplotlib: {INSTALL}")
