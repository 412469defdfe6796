"""Opens an export as a source of images for `sample` and `evaluate`; the images come from the exported file."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ganctl.common.pixels import to_uint8
from ganctl.common.text import nfc
from ganctl.exports import manifest
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES, get_format
from ganctl.files import read_file
from ganctl.manifest import NAME
from ganctl.training.checkpoint.stored_config import read_data_settings
from ganctl.training.config.schema import NAMED_DATA_SETS, DataSettings
from ganctl.training.sampling.inspection import OpenedSource
from ganctl.versions import written_by

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


def open_export(folder: Path) -> OpenedSource:
    """Opens an export after verifying the digests of its files.

    Raises:
        ExportError: the export is absent or damaged.
    """
    fields = manifest.read(folder)
    name = next((name for name, file in FILES.items() if file in fields["files"]), None)
    if name is None:
        raise ExportError(f"{folder}: found no exported generator, expected one of {', '.join(FILES.values())}")
    run = get_format(name).load(read_file(folder / FILES[name]))
    class_names = tuple(map(nfc, fields["class_names"]))
    dim, conditional = fields["z"]["dim"], fields["conditional"]
    source = FileSource(run, latent_dim=dim, conditional=conditional, class_names=class_names)
    facts = {"export": str(folder.resolve()), "artefact": FILES[name], "model_version": fields["model_version"]}
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
