"""The archive to serve for the SOURCE of `ganctl serve` and `ganctl deploy`, and the options that choose it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganctl.serving.cli.package import BACKENDS
from ganctl.streams import note

if TYPE_CHECKING:
    from ganctl.serving.archive.mar import BackendName


def _sha256(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and re.fullmatch("[0-9a-fA-F]{64}", value) is None:
        raise click.BadParameter(f"found {value!r}, expected 64 hexadecimal digits, as `ganctl inspect` prints them.")
    return value


backend_option = click.option(
    "--backend", type=click.Choice(BACKENDS), help="Model file to serve.  [default: onnx; an archive has its own]"
)
sha256_option = click.option("--sha256", metavar="HEX", callback=_sha256, help="Refuse an archive with another digest.")


def find_or_package(
    source: Path,
    folder: Path,
    backend: "BackendName | None",
    sha256: str | None,
    preferred: "BackendName" = "onnx",
) -> Path:
    """Return the archive to serve: SOURCE itself, or one packaged from it in `folder`, for `backend` or `preferred`."""
    from ganctl.serving.archive.mar import package as pack
    from ganctl.serving.errors import PackageError

    if source.is_file() and source.suffix == ".mar":
        if backend is not None:
            raise click.UsageError(f"--backend {backend}: an archive has its own backend. Name the export instead.")
        return source
    if sha256 is not None:
        raise click.UsageError(f"--sha256 {sha256}: found {source}, expected an archive (.mar).")
    if not source.is_dir():
        found = "another file" if source.exists() else "nothing"
        raise PackageError(f"{source}: found {found}, expected an archive (.mar), an export or a run's folder.")
    if not (source / "manifest.json").is_file():
        from ganctl.exports.export import export
        from ganctl.exports.formats import SMALL_FORMS

        exact, small = ([], [backend]) if backend in SMALL_FORMS else ([backend or preferred], [])
        source = export(source, out=folder / "export", formats=exact, small_forms=small, announce=note)
    return pack(source, folder, backend or preferred)
