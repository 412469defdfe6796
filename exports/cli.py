"""The command `export`: writes a checkpoint's generator as TorchScript, ONNX and PT2 files."""

import json
from pathlib import Path

import click

from ganctl.exports.formats import FILES
from ganctl.options import PathParam, json_option
from ganctl.streams import emit


@click.command()
@click.argument("source", type=PathParam(path_type=Path))
@click.option(
    "--format",
    "kinds",
    multiple=True,
    type=click.Choice(list(FILES)),
    help="Write this format; may be repeated [default: all].",
)
@click.option(
    "--out",
    type=PathParam(file_okay=False, path_type=Path),
    help="Write the export to this folder [default: RUN/export].",
)
@json_option
def export(source: Path, kinds: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Export a checkpoint's EMA generator to TorchScript, ONNX and PT2 files, and verify each file against it.

    SOURCE is a run (its best checkpoint) or a checkpoint.
    """
    from ganctl.exports.export import export as write_export
    from ganctl.exports.manifest import NAME

    folder = write_export(
        source,
        out=out,
        kinds=kinds or tuple(sorted(FILES, reverse=True)),
        announce=lambda text: click.echo(text, err=True),
    )
    fields = json.loads((folder / NAME).read_text("utf-8"))
    if as_json:
        emit({"export": str(folder.resolve()), **fields})
    else:
        click.echo(f"{folder}: generator {fields['model_version']}, verified\nnext: ganctl package {folder}")
