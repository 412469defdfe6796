"""The command `export`: writes a checkpoint's generator as TorchScript, ONNX and PT2 files."""

from pathlib import Path

import click

from ganctl.exports.formats import FILES
from ganctl.options import PathParam, json_option
from ganctl.streams import note, print_json


@click.command()
@click.argument("source", type=PathParam(path_type=Path))
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FILES), help="Write this format; repeatable [default: all]."
)
@click.option("--out", type=PathParam(file_okay=False, path_type=Path), help="Export folder [default: RUN/export].")
@json_option
def export(source: Path, formats: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Export a checkpoint's EMA generator to TorchScript, ONNX and PT2 files, and verify each file against it.

    SOURCE is a run (its best checkpoint) or a checkpoint.
    """
    from ganctl.exports import manifest
    from ganctl.exports.export import export as write_export

    folder = write_export(source, out=out, formats=formats, announce=note)
    fields = manifest.read(folder)
    if as_json:
        print_json({"export": str(folder.resolve()), **fields})
    else:
        click.echo(f"{folder}: generator {fields['model_version']}, verified\nnext: ganctl package {folder}")
