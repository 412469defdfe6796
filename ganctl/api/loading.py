"""Opens a source of images by its kind: run, checkpoint, export, archive or server."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganctl.api.generator import ImageGenerator
from ganctl.options import PRETRAINED

if TYPE_CHECKING:
    from ganctl.training.images.inversion import Inverter


def load(source: str | os.PathLike[str], *, token: str | None = None, timeout: float = 30.0) -> ImageGenerator:
    """Opens a generator.

    Args:
        source: a run (its best checkpoint), a checkpoint, an export, an archive (`.mar`), the URL of a server, or
            `pretrained`, the generator that ganctl contains.
        token: inference key of a server with tokens.
        timeout: seconds for a request to a server with all its retries.

    Raises:
        CheckpointError, ExportError, PackageError: the file or folder is absent or damaged.
        RemoteError: the server does not reply, or refuses the token.
    """
    name = os.fspath(source)
    if name.startswith(("http://", "https://")):
        return _connect(name, token, timeout)
    path = Path(name).expanduser()
    if name == PRETRAINED and not path.exists():
        path = Path(__file__).parents[1] / "exports" / PRETRAINED
    if path.suffix == ".mar":
        return _open_archive(path)
    return _open_export(path) if (path / "manifest.json").exists() else _open_checkpoint(path)


def _connect(url: str, token: str | None, timeout: float) -> ImageGenerator:
    from ganctl.serving.client.client import Client
    from ganctl.training.sampling.server_sampler import ServerSampler

    client = Client(url, token, timeout)
    description = client.describe()
    sampler = ServerSampler(client)
    return ImageGenerator(url, sampler, class_names=description.class_names, version=description.version)


def _open_checkpoint(path: Path) -> ImageGenerator:
    from ganctl.common.text import nfc
    from ganctl.exports.manifest import base_fields
    from ganctl.training.checkpoint.run_dir import find_checkpoint
    from ganctl.training.images.inversion import Inverter, load_heads, render_with
    from ganctl.training.images.source import GeneratorSource, load_generator
    from ganctl.training.sampling.local_sampler import LocalSampler

    generator, checkpoint = load_generator(find_checkpoint(path))
    names = tuple(map(nfc, checkpoint.state["data"]["class_names"]))
    heads = load_heads(checkpoint, generator)
    inverter = Inverter(render_with(generator), generator.latent_dim, generator.classes or 0, heads)
    return ImageGenerator(
        str(path),
        LocalSampler(GeneratorSource(generator, names)),
        class_names=names if generator.conditional else (),
        version=base_fields(generator, checkpoint)["model_version"],
        open_inverter=lambda: inverter,
    )


def _open_export(path: Path) -> ImageGenerator:
    from ganctl.exports import manifest
    from ganctl.exports.runtime import DIFFERENTIABLE, READABLE, open_export
    from ganctl.files import read_file
    from ganctl.training.sampling.local_sampler import LocalSampler

    source, fields = open_export(path).source, manifest.read(path)
    assert source is not None, "an export generates its images"
    artifact = next(name for name in (DIFFERENTIABLE, *READABLE) if name in fields["files"])
    content = read_file(path / artifact)  # now: the export may be written anew before `encode` is called
    return ImageGenerator(
        str(path),
        LocalSampler(source),
        class_names=source.class_names if source.conditional else (),
        version=fields["model_version"],
        open_inverter=lambda: _invert_file(path, artifact, content, fields),
    )


def _open_archive(path: Path) -> ImageGenerator:
    from ganctl.exports.runtime import load_source
    from ganctl.manifest import NAME, parse_manifest
    from ganctl.serving.archive.integrity import read_archive
    from ganctl.serving.archive.mar import describe_members
    from ganctl.serving.errors import PackageError
    from ganctl.training.sampling.local_sampler import LocalSampler

    members, _ = read_archive(path)
    artifact = describe_members(members, path)["model_file"]
    fields = parse_manifest(members[NAME], f"{path}, {NAME}", PackageError)
    source = load_source(artifact, members[artifact], fields)
    return ImageGenerator(
        str(path),
        LocalSampler(source),
        class_names=source.class_names if source.conditional else (),
        version=fields["model_version"],
        open_inverter=lambda: _invert_file(path, artifact, members[artifact], fields),
    )


def _invert_file(path: Path, artifact: str, content: bytes, fields: dict[str, Any]) -> "Inverter":
    """Opens a file of an export for `encode`. Raises ValueError if its format gives no gradients."""
    from ganctl.exports.runtime import load_render
    from ganctl.training.images.inversion import Inverter

    conditional = bool(fields["conditional"])
    render = load_render(artifact, content, fields)
    if render is None:
        expected = "expected a run, a checkpoint, or an export or archive with TorchScript"
        remedy = "Load the run, or export it again with `ganctl export RUN --format torchscript`"
        raise ValueError(f"encode: {path} holds {artifact}, which gives no gradients, {expected}. {remedy}.")
    return Inverter(render, int(fields["z"]["dim"]), len(fields["class_names"]) if conditional else 0)
