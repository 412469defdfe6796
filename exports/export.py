"""Exports a checkpoint: writes and verifies the files in a temporary folder, then renames it to the export folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganctl.exports import manifest
from ganctl.exports.browser import site
from ganctl.exports.browser.onnxruntime_web import fetch_runtime
from ganctl.exports.documents import draw_samples, write_documents
from ganctl.exports.errors import ExportError
from ganctl.exports.formats import EXACT_FORMS, FILES, get_format
from ganctl.exports.gate import Gate, describe, open_gate
from ganctl.exports.parity import ParityCheck
from ganctl.files import new_folder, read_file, write_file
from ganctl.manifest import DOCUMENTS, NAME
from ganctl.training.checkpoint.run_dir import CHECKPOINTS, find_checkpoint
from ganctl.training.images.source import load_generator
from ganctl.training.models.base import Generator

Announce = Callable[[str], None]

_NAMES = {NAME, *DOCUMENTS, *FILES.values()}


def export(
    source: Path,
    *,
    out: Path | None = None,
    formats: Sequence[str] | None = None,
    small_forms: Sequence[str] = (),
    assignments: Sequence[str] = (),
    announce: Announce = lambda text: None,
) -> Path:
    """Exports the EMA generator of a checkpoint, or of a run's best checkpoint.

    Args:
        source: a run folder or a checkpoint.
        out: the export folder; default: `export` in the run folder, or next to the checkpoint.
        formats: the formats to write, of EXACT_FORMS, or `browser`, which adds `onnx`; None for all of EXACT_FORMS.
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
        ExportError: `out` holds files that do not belong to an export, or npm cannot fetch the runtime of `browser`.
    """
    path = find_checkpoint(source)
    generator, checkpoint = load_generator(path)
    run_dir = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    out = (out or run_dir / "export").resolve()
    if out.exists() and (foreign := _find_foreign(out)):
        raise ExportError(
            f"{out}: found {foreign}, expected a new folder or an export alone. Name another one by --out"
        )
    formats = EXACT_FORMS if formats is None else formats
    for_browser = site.FOLDER in formats
    runtime = fetch_runtime(announce) if for_browser else {}
    gate = open_gate(path, generator, assignments, announce) if small_forms else None
    base = manifest.base_fields(generator, checkpoint)
    with new_folder(out) as folder:
        exact = [name for name in EXACT_FORMS if name in formats or (for_browser and name == "onnx")]
        measured = _write_exact(folder, generator, base, exact, announce)
        measured["gates"] = _write_small(folder, generator, base, small_forms, gate, announce) if gate else {}
        write_file(folder / "samples.png", draw_samples(generator, base["class_names"]))
        fields = manifest.build(base, folder, checkpoint, measured)
        write_documents(folder, fields)
        if for_browser:
            model = folder / site.preferred_model(fields["files"])
            size = site.write_site(folder / site.FOLDER, fields, model, runtime)
            announce(f"{site.FOLDER}/: {size / 1e6:.1f} MB, draws with {model.name}")
    return out


def _find_foreign(out: Path) -> str | None:
    """Returns what is no part of an export at a path; None if all of it may be replaced.

    A folder of documents without a manifest is foreign, as a README.md may be anybody's.
    """
    if not out.is_dir():
        return "a file"
    paths = sorted(out.iterdir())
    foreign = [path.name for path in paths if path.name not in _NAMES and not site.is_site(path)]
    if not foreign and paths and not (out / NAME).is_file():
        foreign = [paths[0].name]
    return foreign[0] if foreign else None


def _write_exact(
    folder: Path, generator: Generator, base: Mapping[str, Any], formats: Sequence[str], announce: Announce
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
    announce: Announce,
) -> dict[str, Any]:
    """Writes the small forms and checks their scores; returns the results by file."""
    exact = get_format("onnx").write(generator, manifest.as_text(base))
    gates = {}
    for name in small_forms:
        file = FILES[name]
        announce(f"writing {file}; int8 takes minutes for large images" if "int8" in file else f"writing {file}")
        write_file(folder / file, get_format(name).write(generator, manifest.as_text(base)))
        content = read_file(folder / file)
        gates[file] = gate.check(file, content, exact)
        announce(f"{file}: {len(content) / 1e6:.1f} MB, {describe(gates[file])}")
    return gates
