"""Opens an export as a source of images for `sample` and `evaluate`; the images come from the exported file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganctl.common.pixels import to_uint8
from ganctl.common.text import nfc
from ganctl.exports import manifest
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES, get_format
from ganctl.exports.untrusted import check_file
from ganctl.files import read_file
from ganctl.manifest import NAME
from ganctl.training.checkpoint.stored_config import read_data_settings
from ganctl.training.config.schema import NAMED_DATA_SETS, DataSettings
from ganctl.training.sampling.inspection import OpenedSource
from ganctl.versions import written_by

READABLE = tuple(file for name, file in FILES.items() if name != "pt2")  # a PT2 file can run code: see untrusted.py
DIFFERENTIABLE = FILES["torchscript"]
_CHUNK = 256


class FileSource:
    """A source that runs an exported file; see `training.images.source.Source`.

    Attributes:
        latent_dim: size of a latent.
        conditional: whether the file takes labels.
        class_names: by label.
    """

    def __init__(
        self, run: Callable[..., Tensor], *, latent_dim: int, conditional: bool, class_names: tuple[str, ...]
    ) -> None:
        self._run, self.latent_dim, self.conditional, self.class_names = run, latent_dim, conditional, class_names

    @torch.inference_mode()
    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        """Generates images, uint8 [N, C, H, W]; see `training.images.source.Source`."""
        images = []
        for chunk in zip(z.split(_CHUNK), label.split(_CHUNK), strict=True):
            output = self._run(*chunk if self.conditional else chunk[:1])
            images.append(torch.from_numpy(to_uint8(output.numpy())))
        return torch.cat(images)


def load_source(artifact: str, content: bytes, fields: Mapping[str, Any]) -> FileSource:
    """Loads a file of an export as a source.

    Args:
        artifact: name of the file, a value of FILES.
        content: bytes of the file.
        fields: the manifest.
    """
    class_names = tuple(map(nfc, fields["class_names"]))
    dim, conditional = fields["z"]["dim"], fields["conditional"]
    return FileSource(
        _load(artifact, content, fields), latent_dim=dim, conditional=conditional, class_names=class_names
    )


def _load(artifact: str, content: bytes, fields: Mapping[str, Any]) -> Callable[..., Tensor]:
    (name,) = (name for name, file in FILES.items() if file == artifact)
    check_file(artifact, content, fields["inputs"])
    try:
        return get_format(name).load(content)
    except Exception as error:  # the runtimes raise errors of many kinds
        raise ExportError(f"{artifact}: cannot be loaded ({error}). Export again from the checkpoint") from error


def load_render(artifact: str, content: bytes, fields: Mapping[str, Any]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Loads a file of an export as a differentiable function; None if its runtime computes no gradients.

    Returns:
        A function of z and labels, as `training.images.inversion.Render`.
    """
    if artifact != DIFFERENTIABLE:
        return None
    run, conditional = _load(artifact, content, fields), fields["conditional"]

    def render(z: Tensor, labels: Tensor) -> Tensor:
        images = run(z, labels) if conditional else run(z)
        return torch.cat([images[:, :3] * images[:, 3:], images[:, 3:]], dim=1) if images.shape[1] == 4 else images

    return render


def open_export(folder: Path) -> OpenedSource:
    """Opens an export after verifying the digests of its files: ONNX if there is one, else the next format of FILES.

    Raises:
        ExportError: the export is absent or damaged.
    """
    fields = manifest.read(folder)
    artifact = next((file for file in READABLE if file in fields["files"]), None)
    if artifact is None:
        found = ", ".join(fields["files"])
        raise ExportError(f"{folder}: found {found}, expected one of {', '.join(READABLE)}. Export that format")
    source = load_source(artifact, read_file(folder / artifact), fields)
    facts = {"export": str(folder.resolve()), "artefact": artifact, "model_version": fields["model_version"]}
    data_name, stored = fields.get("data"), fields.get("data_settings")  # missing in older exports
    known = ":" in str(data_name) or data_name in NAMED_DATA_SETS
    data, errors = read_data_settings(
        (stored if isinstance(stored, dict) else {}) | {"source": data_name if known else DataSettings().source}
    )
    if not known:
        errors.append(
            f"data.source = {data_name!r}: found no data set of this name, and an export does not store the folder of"
            " its images. Name them by --set data.source=…."
        )
    prefix = f"{folder / NAME}:{written_by(fields.get('ganctl_version'))}"
    fault = ExportError(f"{prefix} {' '.join(errors)}") if errors else None
    return OpenedSource(data, source, fault, facts=facts)
