"""The command `inspect`, and helpers shared by the other commands.

Only `cli` modules combine rooms and print. A command imports torch and the like when it runs, so that `ganctl --help`
needs none of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganctl.options import PathParam, SourceParam, json_option
from ganctl.streams import note, print_json
from ganctl.training.cli.completion import complete_data_setting

if TYPE_CHECKING:
    from ganctl.training.sampling.inspection import OpenedSource

_CLASSES_SHOWN = 40


data_settings_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="data.KEY=VALUE",
    shell_complete=complete_data_setting,
    help="Override a data setting of SOURCE.",
)


@click.command()
@click.argument("source", metavar="PATH", type=SourceParam())
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_data_setting,
    help="Set data.…, for a data set.",
)
@click.option(
    "--out",
    type=PathParam(dir_okay=False, path_type=Path),
    help="Contact sheet of a data set [default: contact-NAME.png].",
)
@json_option
def inspect(source: str, assignments: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Describe a run, checkpoint, export or archive: step, metrics, digests. Or describe a data set.

    Of a data set (a folder, an archive, a file, or a name such as mnist): format, classes, splits, sizes, duplicates,
    unreadable files, and the size and channels that `train` would take. A contact sheet shows images of each class.
    """
    from ganctl.training.sampling.inspection import is_model

    path = Path(source)
    if not is_model(path):
        _inspect_data(source, assignments, out, as_json)
        return
    if path.suffix == ".mar":
        from ganctl.serving.archive.mar import describe_archive

        record = describe_archive(path)
    elif (path / "manifest.json").exists():
        from ganctl.exports.manifest import read
        from ganctl.manifest import changed_documents

        fields = read(path)
        changed = changed_documents(path, fields)
        record = {"kind": "export", "path": str(path.resolve()), **fields, "changed": changed}
        for name in changed:
            note(f"{path / name}: was changed or deleted after the export; the model files are as exported")
    else:
        from ganctl.training.sampling.inspection import describe_run

        record = describe_run(path)
    if as_json:
        print_json(record)
        return
    for name, value in record.items():
        click.echo(f"{name:20} {value}")


def _inspect_data(source: str, assignments: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    from ganctl.files import write_file
    from ganctl.training.config.registry import DATASETS
    from ganctl.training.config.resolve import resolve
    from ganctl.training.data.report import describe_data
    from ganctl.training.errors import DataError
    from ganctl.training.images.pictures import ENLARGEMENT, encode, straight, tile, to_picture

    if not DATASETS.accepts(source) and not Path(source).exists():
        names = ", ".join(DATASETS.names())
        expected = f"a run, a checkpoint, an export, an archive, or a data set: a path, {names} or module:Name"
        raise DataError(f"{source}: no such file or folder, expected {expected}. Check the path")
    settings = resolve(assignments=assignments, flags={"data.source": ("PATH", source)})[0].data
    facts, images, columns = describe_data(settings)
    if out is None and settings.is_path and Path.cwd().is_relative_to(Path(settings.source).resolve()):
        note("no contact sheet is written into the folder of the images. Give --out FILE, for one elsewhere")
    elif len(images):
        out = out or Path(f"contact-{settings.name}.png")
        write_file(out, encode(to_picture(straight(tile(images, columns=columns)), ENLARGEMENT), "png"))
        facts["contact_sheet"] = str(out.resolve())
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if name == "classes":
            for item in value[:_CLASSES_SHOWN]:
                splits = ", ".join(f"{split} {item[split]}" for split in ("train", "val", "test"))
                click.echo(f"{'class':26} {item['name']}: {item['images']} ({splits})")
            if len(value) > _CLASSES_SHOWN:
                click.echo(f"{'':26} and {len(value) - _CLASSES_SHOWN} more classes")
        elif name == "unreadable" and value:
            for file, reason in value.items():
                click.echo(f"{name:26} {file}: {reason}")
        elif isinstance(value, dict):
            click.echo(f"{name:26} {', '.join(f'{key}: {item}' for key, item in value.items()) or 'none'}")
        elif isinstance(value, list):
            for item in value:
                click.echo(f"{name:26} {item}")
        else:
            click.echo(f"{name:26} {value}")


def open_source(path: Path) -> "OpenedSource":
    """Opens an export (a folder with a manifest), a run's best checkpoint, or a checkpoint."""
    if (path / "manifest.json").exists():
        from ganctl.exports.runtime import open_export

        return open_export(path)
    from ganctl.training.sampling.inspection import open_checkpoint

    return open_checkpoint(path)
