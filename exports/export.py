"""Exports a checkpoint: writes and verifies the files in a temporary folder, then renames it to the export folder."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ganctl.exports import manifest, parity
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import FILES, get_format
from ganctl.exports.formats.base import example_inputs
from ganctl.exports.model_card import model_card
from ganctl.files import new_folder, read_file, write_file
from ganctl.manifest import DOCUMENTS, NAME
from ganctl.training.checkpoint.run_dir import CHECKPOINTS, find_checkpoint
from ganctl.training.images.pictures import ENLARGEMENT, encode, tile, to_picture
from ganctl.training.images.source import GeneratorSource, load_generator
from ganctl.training.models.base import Generator

_STYLES = 8  # rows of samples.png
_UNLABELED_COLUMNS = 10


def export(
    source: Path,
    *,
    out: Path | None = None,
    formats: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> Path:
    """Exports the EMA generator of a checkpoint, or of a run's best checkpoint.

    Args:
        source: a run folder or a checkpoint.
        out: the export folder; default: `export` in the run folder, or next to the checkpoint.
        formats: the formats to write, keys of FILES; default: all.
        announce: receives a message for each file.

    Returns:
        The export folder.

    Raises:
        CheckpointError: the source is absent, damaged, or has no best checkpoint yet.
        ParityError: a file gives other images than the generator; nothing is left behind.
        ExportError: `out` holds files that do not belong to an export.
    """
    path = find_checkpoint(source)
    generator, checkpoint = load_generator(path)
    run_dir = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    out = (out or run_dir / "export").resolve()
    export_files = {NAME, *DOCUMENTS, *FILES.values()}
    if out.exists() and not (out.is_dir() and {file.name for file in out.iterdir()} <= export_files):
        raise ExportError(f"--out {out}: found something else than an export, expected a new folder. Name another one")
    base = manifest.base_fields(generator, checkpoint)
    with new_folder(out) as folder:
        differences = {}
        for format_name in formats or sorted(FILES, reverse=True):  # TorchScript first, which takes the least time
            name = FILES[format_name]
            file_format = get_format(format_name)
            write_file(folder / name, file_format.write(generator, manifest.as_text(base)))
            # read here, since the errors of the runtimes do not name the file
            differences[name] = parity.measure(name, file_format.load(read_file(folder / name)), generator)
            worst = max(differences[name].values())
            announce(f"{name}: {(folder / name).stat().st_size / 1e6:.1f} MB, differs by at most {worst:.1e}")
        write_file(folder / "samples.png", _draw_samples(generator, base["class_names"]))
        fields = manifest.build(base, folder, checkpoint, differences)
        write_file(folder / "card.md", model_card(fields))
        fields["files"] |= {name: manifest.file_entry(folder / name, name.partition(".")[2]) for name in DOCUMENTS}
        write_file(folder / NAME, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    return out


def _draw_samples(generator: Generator, class_names: Sequence[str]) -> bytes:
    """Draws a PNG: one row per latent, one column per class."""
    classes = len(class_names) or _UNLABELED_COLUMNS
    labels = torch.arange(classes).repeat(_STYLES)
    images_per_latent = classes if generator.conditional else 1
    z, *_ = example_inputs(generator, len(labels) // images_per_latent, seed=1)
    z = z.repeat_interleave(images_per_latent, dim=0)
    images = GeneratorSource(generator, tuple(class_names)).generate(z, labels)
    return encode(to_picture(tile(images.numpy(), columns=classes), ENLARGEMENT), "png")
