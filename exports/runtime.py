"""An export as a source of images, for `sample` and `evaluate`: drawn by the artefact, not by the checkpoint."""

from pathlib import Path

import torch
from torch import Tensor

from ganctl.common.pixels import to_uint8
from ganctl.common.text import nfc
from ganctl.exports import manifest
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES, get_format
from ganctl.files import read_file
from ganctl.training.checkpoint.stored_config import read_data_settings
from ganctl.training.sampling.inspection import Opened
from ganctl.versions import written_by

_CHUNK = 256


class ExportSource:
    """An artefact that draws; ONNX where the export has it."""

    def __init__(self, folder: Path, facts: dict[str, object]) -> None:
        self._facts = facts
        files = facts["files"]
        assert isinstance(files, dict)
        kind = next((kind for kind, file in FILES.items() if file in files), None)
        if kind is None:
            expected = ", ".join(FILES.values())
            raise ExportError(f"{folder}: no artefact that can be run here; expected one of {expected}")
        self.artefact = FILES[kind]
        self._run = get_format(kind).load(read_file(folder / self.artefact))
        z, names = facts["z"], facts["class_names"]
        assert isinstance(z, dict)
        assert isinstance(names, list)
        self.latent_dim, self.conditional, self.class_names = (
            int(z["dim"]),
            bool(facts["conditional"]),
            tuple(map(nfc, names)),
        )

    @torch.inference_mode()
    def draw(self, z: Tensor, label: Tensor) -> Tensor:
        images = []
        for chunk in zip(z.split(_CHUNK), label.split(_CHUNK), strict=True):
            drawn = self._run(*chunk if self.conditional else chunk[:1])
            images.append(torch.from_numpy(to_uint8(drawn.numpy())))
        return torch.cat(images)


def open_export(folder: Path) -> Opened:
    """Opens an export after proving its digests.

    Raises:
        ExportError: it is absent or damaged.
    """
    facts = manifest.read(folder)
    source = ExportSource(folder, facts)
    told = {"export": str(folder.resolve()), "artefact": source.artefact, "model_version": facts["model_version"]}
    said = facts.get("data_settings")  # older exports lack it
    data, faults = read_data_settings({"name": facts["data"]} | (said if isinstance(said, dict) else {}))
    where = f"{folder / manifest.NAME}:{written_by(facts.get('ganctl_version'))}"
    return Opened(data, source, ExportError(f"{where} {' '.join(faults)}") if faults else None, facts=told)
