"""The command `export`: writes a checkpoint's generator as TorchScript, ONNX and PT2 files, and as a page."""

from pathlib import Path

import click

from ganctl.exports.formats import EXACT_FORMS
from ganctl.options import PathParam, complete_source, json_option
from ganctl.streams import note, print_json


@click.command()
@click.argument("source", type=PathParam(path_type=Path), shell_complete=complete_source)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice([*EXACT_FORMS, "browser"]),
    help="Write this format; repeatable [default: all except browser, a page that draws without a server].",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    help="fp16: also write an ONNX file with float16 weights.",
)
@click.option("--quantize", type=click.Choice(["int8"]), help="Also write an ONNX file with int8 arithmetic.")
@click.option("--out", type=PathParam(file_okay=False, path_type=Path), help="Export folder [default: RUN/export].")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="data.KEY=VALUE",
    help="Override a data setting of SOURCE, for the scores of the small forms.",
)
@json_option
def export(
    source: Path,
    formats: tuple[str, ...],
    precision: str,
    quantize: str | None,
    out: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Export a checkpoint's EMA generator to TorchScript, ONNX and PT2 files, and verify each file against it.

    SOURCE is a run (its best checkpoint) or a checkpoint.

    --precision fp16 and --quantize int8 add smaller ONNX files. They are scored on the validation images, and the
    export fails if the Fréchet distance grows by more than 5 % or the label accuracy falls by more than 0.3 points.
    """
    from ganctl.exports import manifest
    from ganctl.exports.export import export as write_export

    small_forms = (["onnx-fp16"] if precision == "fp16" else []) + (["onnx-int8"] if quantize else [])
    folder = write_export(
        source, out=out, formats=formats or None, small_forms=small_forms, assignments=assignments, announce=note
    )
    fields = manifest.read(folder)
    if as_json:
        print_json({"export": str(folder.resolve()), **fields})
    else:
        click.echo(f"{folder}: generator {fields['model_version']}, verified\nnext: ganctl package {folder}")
        if "browser" in formats:
            click.echo(f"or, for the page: python3 -m http.server --directory {folder / 'browser'}")
