"""The command `inspect`, and helpers shared by the other commands.

Only `cli` modules combine rooms and print. A command imports torch and the like when it runs, so that `ganctl --help`
needs none of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganctl.options import SourceParam, json_option
from ganctl.streams import print_json

if TYPE_CHECKING:
    from ganctl.training.sampling.inspection import OpenedSource


data_settings_option = click.option(
    "--set", "assignments", multiple=True, metavar="data.KEY=VALUE", help="Override a data setting of SOURCE."
)


@click.command()
@click.argument("source", metavar="PATH", type=SourceParam())
@json_option
def inspect(source: str, as_json: bool) -> None:
    """Describe a run, checkpoint, export or archive: step, metrics, digests."""
    from ganctl.training.errors import CheckpointError

    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{path}: found no file, expected a run, a checkpoint, an export or a .mar")
    if path.suffix == ".mar":
        from ganctl.serving.archive.mar import describe_archive

        record = describe_archive(path)
    elif (path / "manifest.json").exists():
        from ganctl.exports.manifest import read

        record = {"kind": "export", "path": str(path.resolve()), **read(path)}
    else:
        from ganctl.training.sampling.inspection import describe_run

        record = describe_run(path)
    if as_json:
        print_json(record)
        return
    for name, value in record.items():
        click.echo(f"{name:20} {value}")


def open_source(path: Path) -> "OpenedSource":
    """Opens an export (a folder with a manifest), a run's best checkpoint, or a checkpoint."""
    if (path / "manifest.json").exists():
        from ganctl.exports.runtime import open_export

        return open_export(path)
    from ganctl.training.sampling.inspection import open_checkpoint

    return open_checkpoint(path)
