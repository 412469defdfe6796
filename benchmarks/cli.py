"""The commands `ganctl bench …`. What a command needs is imported when it runs."""

import importlib.util
import json
from pathlib import Path

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import emit


@click.group()
def bench() -> None:
    """Measure, against peers where they are installed."""


@bench.command()
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(min=0.1), help="Of each measurement.")
@click.option("--repetitions", default=5, show_default=True, type=click.IntRange(min=1), help="Of all, interleaved.")
@click.option("--growth/--no-growth", default=True, help="Also with larger batches and networks, and over a long run.")
@click.option(
    "--out",
    default=Path("bench-train"),
    show_default=True,
    type=PathParam(file_okay=False, path_type=Path),
    help="Folder of the results.",
)
@json_option
def train(seconds: float, repetitions: int, growth: bool, out: Path, as_json: bool) -> None:
    """Measure the trainer's speed beside bare loops, the tutorial under Lightning, and the machine's matrix products.

    Leaves results.json, table.md and rates.png. Five repetitions take a quarter of an hour.
    """
    from ganctl.benchmarks.speed.compare import measure_all
    from ganctl.benchmarks.speed.table import speed_table

    _need_matplotlib()
    from ganctl.benchmarks.figures import draw_rates

    results = measure_all(
        seconds=seconds, repetitions=repetitions, growing=growth, announce=lambda text: click.echo(text, err=True)
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
@click.option("--seconds", default=120.0, show_default=True, type=click.FloatRange(min=1), help="Training of each run.")
@click.option("--draws", "seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each system.")
@click.option("--system", "names", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option(
    "--num-images", default=10_000, show_default=True, type=click.IntRange(200, 10_000), help="Images to compare."
)
@click.option(
    "--out",
    default=Path("bench-quality"),
    show_default=True,
    type=PathParam(file_okay=False, path_type=Path),
    help="Folder of the results; what is complete in it is not repeated.",
)
@json_option
def quality(seconds: float, seeds: int, names: tuple[str, ...], num_images: int, out: Path, as_json: bool) -> None:
    """Train the tutorial, two known GANs and our presets for the same time, and score all on the same test images.

    Leaves results.json, table.md, samples.png and fd.png. Three seeds of six systems take 40 minutes and the scoring.
    """
    from ganctl.benchmarks.errors import BenchError
    from ganctl.benchmarks.quality.compare import Quality, real_samples
    from ganctl.benchmarks.table import table

    _need_matplotlib()
    from ganctl.benchmarks.figures import draw_curves, draw_samples

    comparison = Quality(
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
    firsts = [(system["name"], system["runs"][0]["seed"]) for system in results["systems"]]  # no seed is chosen
    rows = [("real images", real_samples()), *((name, comparison.samples(name, seed)) for name, seed in firsts)]
    draw_samples(rows, out / "samples.png")
    draw_curves(results, out / "fd.png")
    if results["failed"]:
        click.echo(text, err=as_json)
        raise BenchError(f"{', '.join(results['failed'])} failed; what succeeded is in {out}; run it again to complete")
    if as_json:
        files = {name: str((out / name).resolve()) for name in ("results.json", "table.md", "samples.png", "fd.png")}
        brief = [{key: value for key, value in system.items() if key != "runs"} for system in results["systems"]]
        emit(results | {"systems": brief, "files": files})
    else:
        click.echo(text)
        click.echo(f"results.json, table.md, samples.png and fd.png are in {out}")


@bench.command()
@click.option("--source", type=PathParam(path_type=Path), help="Run or export.  [default: `quick`, 200 steps of it]")
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this server; may be repeated.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(min=0.1), help="Of each measurement.")
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(min=1), help="Of all, interleaved.")
@click.option("--warm-up", default=8.0, show_default=True, type=click.FloatRange(min=0), help="Seconds, at each start.")
@click.option("--into", type=PathParam(exists=True, dir_okay=False, path_type=Path), help="Document for the table.")
@click.option(
    "--out",
    default=Path("bench-serve"),
    show_default=True,
    type=PathParam(file_okay=False, path_type=Path),
    help="Folder of the results.",
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
    """Load our server, a stock TorchServe, LitServe, FastAPI, and a TorchServe that draws nothing, in turns.

    Leaves results.json, table.md and serving.png. Three repetitions take half an hour.
    """
    _need_matplotlib()
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


def _need_matplotlib() -> None:
    """Tells before anything is measured that no picture could be made of it."""
    from ganctl.benchmarks.errors import BenchError
    from ganctl.benchmarks.systems import INSTALL

    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError(f"the pictures need the package matplotlib: {INSTALL}")
