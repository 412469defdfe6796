"""The command `package`."""

from pathlib import Path
from typing import Literal

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import print_json


@click.command()
@click.argument("export_dir", type=PathParam(path_type=Path))
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), default="onnx")
@click.option("--out", type=PathParam(path_type=Path), help="Folder for digits.mar.  [default: the export's parent]")
@json_option
def package(export_dir: Path, backend: Literal["onnx", "torchscript"], out: Path | None, as_json: bool) -> None:
    """Pack EXPORT_DIR into digits.mar, an archive that any TorchServe serves."""
    from ganctl.serving.archive.mar import describe_archive
    from ganctl.serving.archive.mar import package as pack

    mar = pack(export_dir, out, backend)
    record = describe_archive(mar)
    if as_json:
        print_json(record)
    else:
        click.echo(f"{mar}: {record['bytes'] / 1e6:.1f} MB, model {record['model_version']}, {backend}")
        click.echo(f"Next: ganctl serve {mar}")
