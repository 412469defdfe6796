"""The command `package`."""

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import emit


@click.command()
@click.argument("export_dir", type=PathParam())
@click.option("--backend", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option("--out", type=PathParam(), help="Folder for digits.mar.  [default: the export's parent]")
@json_option
def package(export_dir: str, backend: str, out: str | None, as_json: bool) -> None:
    """Pack EXPORT_DIR into digits.mar, an archive that any TorchServe serves."""
    from pathlib import Path
    from typing import cast

    from ganctl.serving.archive.mar import BackendName, describe_archive
    from ganctl.serving.archive.mar import package as pack

    mar = pack(Path(export_dir), Path(out) if out else None, cast(BackendName, backend))
    record = describe_archive(mar)
    if as_json:
        emit(record)
    else:
        click.echo(f"{mar}: {record['bytes'] / 1e6:.1f} MB, model {record['model_version']}, {backend}")
        click.echo(f"Next: ganctl serve {mar}")
