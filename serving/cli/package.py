"""The command `package`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ganctl.options import PathParam, json_option
from ganctl.streams import print_json

if TYPE_CHECKING:
    from ganctl.serving.archive.mar import BackendName

BACKENDS = ("onnx", "onnx-fp16", "onnx-int8", "torchscript")


@click.command()
@click.argument("export_dir", type=PathParam(path_type=Path))
@click.option("--for", "server", type=click.Choice(["torchserve", "ray"]), default="torchserve", help="Target server.")
@click.option("--backend", type=click.Choice(BACKENDS), default="onnx", help="Model file to serve.")
@click.option(
    "--out", type=PathParam(path_type=Path), help="Folder for digits.mar or digits-ray.  [default: the export's parent]"
)
@json_option
def package(
    export_dir: Path,
    server: Literal["torchserve", "ray"],
    backend: "BackendName",
    out: Path | None,
    as_json: bool,
) -> None:
    """Pack EXPORT_DIR into digits.mar, an archive that any TorchServe serves, or into a folder for Ray Serve."""
    if server == "ray":
        from ganctl.serving.hosts.ray import package as ray

        folder = ray.package(export_dir, out, backend)
        record = ray.describe(folder)
        text = f"{folder}: model {record['model_version']}, {backend}"
        command = f"serve run {record['config']}"
    else:
        from ganctl.serving.archive import mar

        archive = mar.package(export_dir, out, backend)
        record = mar.describe_archive(archive)
        text = f"{archive}: {record['bytes'] / 1e6:.1f} MB, model {record['model_version']}, {backend}"
        command = f"ganctl serve {archive}"
    if as_json:
        print_json(record)
    else:
        click.echo(f"{text}\nNext: {command}")
