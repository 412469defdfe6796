"""Exports a checkpoint: writes and verifies the files in a temporary folder, then renames it to the export folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ganctl.exports import manifest
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import EXACT_FORMS, FILES, get_format
from ganctl.exports.formats.base import example_inputs
from ganctl.exports.gate import Gate, describe
from ganctl.exports.model_card import model_card
from ganctl.exports.parity import ParityCheck
from ganctl.files import new_folder, read_file, write_file
from ganctl.manifest import CARDS, DOCUMENTS, NAME
from ganctl.training.checkpoint.run_dir import CHECKPOINTS, find_checkpoint
from ganctl.training.data.base import Split
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.images.pictures import ENLARGEMENT, encode, tile, to_picture
from ganctl.training.images.source import GeneratorSource, load_generator
from ganctl.training.models.base import Generator
from ganctl.training.sampling.inspection import check_fit, open_checkpoint, override_data_settings

_STYLES = 8  # rows of samples.png
_UNLABELED_COLUMNS = 10
_SPLIT: Split = "val"  # of the images that small forms are scored on
_SCORED_IMAGES = 5000


def export(
    source: Path,
    *,
    out: Path | None = None,
    formats: Sequence[str] | None = None,
    small_forms: Sequence[str] = (),
    assignments: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> Path:
    """Exports the EMA generator of a checkpoint, or of a run's best checkpoint.

    Args:
        source: a run folder or a checkpoint.
        out: the export folder; default: `export` in the run folder, or next to the checkpoint.
        formats: the exact formats to write, of EXACT_FORMS; None for all.
        small_forms: the small forms to write in addition, of SMALL_FORMS; they are scored on the validation images.
        assignments: data settings in place of those of the checkpoint, such as `data.source=…`, for the scores.
        announce: receives a message for each file.

    Returns:
        The export folder.

    Raises:
        CheckpointError: the source is absent, damaged, or has no best checkpoint yet.
        DataError: the images to score the small forms on cannot be read.
        ParityError: a file gives other images than the generator; nothing is left behind.
        GateError: a small form loses too much quality; nothing is left behind.
        ExportError: `out` holds files that do not belong to an export.
    """
    path = find_checkpoint(source)
    generator, checkpoint = load_generator(path)
    run_dir = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    out = (out or run_dir / "export").resolve()
    if out.exists() and not (out.is_dir() and _may_be_replaced({file.name for file in out.iterdir()})):
        raise ExportError(f"--out {out}: found something else than an export, expected a new folder. Name another one")
    gate = _open_gate(path, generator, assignments, announce) if small_forms else None
    base = manifest.base_fields(generator, checkpoint)
    with new_folder(out) as folder:
        exact_forms = EXACT_FORMS if formats is None else formats
        parity = _write_exact(folder, generator, base, exact_forms, announce)
        gates = _write_small(folder, generator, base, small_forms, gate, announce) if gate else {}
        write_file(folder / "samples.png", _draw_samples(generator, base["class_names"]))
        write_documents(folder, manifest.build(base, folder, checkpoint, parity | {"gates": gates}))
    return out


def _write_exact(
    folder: Path,
    generator: Generator,
    base: Mapping[str, Any],
    formats: Sequence[str],
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Writes and verifies the files that give the generator's images; returns the manifest fields of their parity."""
    check = ParityCheck(generator)
    float32, float64 = {}, {"eager": check.rounding}
    for name in sorted(formats, reverse=True):  # TorchScript first, which takes the least time
        file, file_format = FILES[name], get_format(name)
        write_file(folder / file, file_format.write(generator, manifest.as_text(base)))
        # read here, since the errors of the runtimes do not name the file
        content = read_file(folder / file)
        float32[file], float64[file] = check.check(file, file_format.load(content))
        announce(f"{file}: {len(content) / 1e6:.1f} MB, differs by at most {max(float32[file].values()):.1e}")
    return {"parity": float32, "parity_float64": float64}


def _write_small(
    folder: Path,
    generator: Generator,
    base: Mapping[str, Any],
    small_forms: Sequence[str],
    gate: Gate,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Writes the small forms and checks their scores; returns the results by file."""
    exact = get_format("onnx").write(generator, manifest.as_text(base))
    gates = {}
    for name in small_forms:
        file = FILES[name]
        write_file(folder / file, get_format(name).write(generator, manifest.as_text(base)))
        content = read_file(folder / file)
        gates[file] = gate.check(file, content, exact)
        announce(f"{file}: {len(content) / 1e6:.1f} MB, {describe(gates[file])}")
    return gates


def _open_gate(path: Path, generator: Generator, assignments: Sequence[str], announce: Callable[[str], None]) -> Gate:
    """Opens the validation images of a checkpoint."""
    opened = open_checkpoint(path)
    data = override_data_settings(opened, assignments)
    check_fit(opened, load_split(data, _SPLIT), path)
    evaluator = Evaluator(data, _SPLIT, num_images=_SCORED_IMAGES, announce=announce, cache=TensorCache(announce))
    return Gate(generator, evaluator)


def write_documents(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes the cards and the manifest of an export, also of an earlier one; its other files must be there.

    Args:
        folder: holds the model files and samples.png.
        fields: the manifest, with or without the entries of the documents.
    """
    card = model_card(fields)
    for name in CARDS:
        write_file(folder / name, card)
    documents = {name: manifest.file_entry(folder / name, name.partition(".")[2]) for name in DOCUMENTS}
    content = {**fields, "files": fields["files"] | documents}
    write_file(folder / NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _may_be_replaced(names: set[str]) -> bool:
    """True for the files of an export, or none; a README.md alone may be anybody's."""
    return not names or (NAME in names and names <= {NAME, *DOCUMENTS, *FILES.values()})


def _draw_samples(generator: Generator, class_names: Sequence[str]) -> bytes:
    """Draws a PNG: one row per latent, one column per class."""
    classes = len(class_names) or _UNLABELED_COLUMNS
    labels = torch.arange(classes).repeat(_STYLES)
    images_per_latent = classes if generator.conditional else 1
    z, *_ = example_inputs(generator, len(labels) // images_per_latent, seed=1)
    z = z.repeat_interleave(images_per_latent, dim=0)
    images = GeneratorSource(generator, tuple(class_names)).generate(z, labels)
    return encode(to_picture(tile(images.numpy(), columns=classes), ENLARGEMENT), "png")
