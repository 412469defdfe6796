"""Prepares the generators for `ganctl bench serve`: from a run or an export, or trained within half a minute."""

import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import ganctl.exports
from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.serving.cases import SIZE
from ganctl.benchmarks.serving.systems import Models
from ganctl.exports.export import export
from ganctl.serving.archive.mar import package, read_export
from ganctl.serving.hosts.ray import package as ray
from ganctl.training.data.datasets import load_split
from ganctl.training.loop.recipe import configure

STEPS = 200  # enough, because the serving speed depends on the architecture only
_PRETRAINED = Path(ganctl.exports.__file__).parent / "pretrained"


def prepare(source: Path | None, folder: Path, announce: Callable[[str], None]) -> Models:
    """Packs the archives into `folder`.

    Args:
        source: a run or an export; None trains the preset `quick` for 200 steps.
        folder: the folder for the archives.
        announce: called with progress messages.

    Raises:
        BenchError: the training failed.
        BenchUsageError: the source is no conditional generator of digits.
    """
    if source is None:
        announce(f"training quick for {STEPS} steps, as no --source is given")
        source = _train(folder / "run")
    exported = source if (source / "manifest.json").is_file() else export(source, out=folder / "export")
    manifest = read_export(exported)
    image = manifest["image"]
    if (image["channels"], image["height"], image["width"]) != (1, SIZE, SIZE) or len(manifest["class_names"]) != 10:
        raise BenchUsageError(
            f"--source {source}: found images {image} of {manifest['class_names']}, expected gray digits of 28 × 28"
        )
    if not manifest["conditional"]:
        raise BenchUsageError(f"--source {source}: found an unconditional generator, expected a conditional one")
    has_torchscript = "generator.ts" in manifest["files"]
    return Models(
        onnx=package(exported, folder / "onnx", "onnx"),
        torchscript=package(exported, folder / "torchscript", "torchscript") if has_torchscript else None,
        generator=(exported / "generator.onnx").absolute(),
        conv=package(_PRETRAINED, folder / "conv", "onnx"),
        digit=_digit(),
        ray=ray.package(exported, folder),
    )


def _train(run_dir: Path) -> Path:
    arguments = ["train", "--preset", "quick", "--max-steps", str(STEPS), "--run-dir", str(run_dir), "--json"]
    done = run_module(["ganctl", *arguments])
    if done.returncode != 0:
        raise BenchError(f"`ganctl {' '.join(arguments)}` failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return Path(json.loads(done.stdout)["run_dir"])


def _digit() -> bytes:
    """Returns the PNG of the first 7 of the test images, encoded by Pillow."""
    file, data = io.BytesIO(), load_split(configure().data, "test")
    Image.fromarray(data.images[data.labels == 7][0, 0].numpy()).save(file, "PNG")
    return file.getvalue()
