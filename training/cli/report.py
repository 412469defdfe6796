"""The command `report`: writes one HTML file about one or more runs."""

import time
from pathlib import Path

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import note, print_json


@click.command()
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, type=PathParam(path_type=Path))
@click.option(
    "--out",
    type=PathParam(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File to write [default: RUN/report.html; of several runs ./report.html].",
)
@json_option
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write one HTML file about each RUN: curves, scores, classes, images, settings, environment.

    A RUN is the folder of a run, which may still be training. Several runs are shown side by side, and the settings
    that differ come first. The file needs neither a server nor a network. docs/report.md explains how to read it.
    """
    start = time.monotonic()  # before the imports, which take most of the time
    from ganctl.files import write_file
    from ganctl.training.report.page import build_page
    from ganctl.training.report.run import read_runs

    records = read_runs(runs)
    out = out or (records[0].path / "report.html" if len(records) == 1 else Path("report.html"))
    page = build_page(records, note)
    write_file(out, page)
    size, seconds = out.stat().st_size, round(time.monotonic() - start, 2)
    if as_json:
        paths = [str(record.path) for record in records]
        print_json({"path": str(out.resolve()), "bytes": size, "seconds": seconds, "runs": paths})
        return
    click.echo(f"{out}: {size / 1e6:.2f} MB, in {seconds:.1f} s")
