"""The generators that `ganctl bench serve` has served: from a run or an export, or trained for it in half a minute."""

import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import ganctl.exports
from ganctl.benchmarks.children import run_module
from ganctl.benchmarks.errors import BenchError, BenchUsageError
from ganctl.benchmarks.quality.compare import real_samples
from ganctl.benchmarks.serving.cases import SIZE
from ganctl.benchmarks.serving.systems import Models
from ganctl.exports.export import export
from ganctl.serving.archive.mar import package, read_export

STEPS = 200  # its speed is that of its architecture, however good its digits are
_PRETRAINED = Path(ganctl.exports.__file__).parent / "pretrained"


def prepare(source: Path | None, folder: Path, announce: Callable[[str], None]) -> Models:
    """Packs what is served into `folder`. Without a source, the preset `quick` is trained for 200 steps.

    Raises:
        BenchError: it could not be trained.
        BenchUsageError: the source draws something else than digits.
    """
    if source is None:
        announce(f"training quick for {STEPS} steps, to have something to serve")
        source = _train(folder / "run")
    exported = source if (source / "manifest.json").is_file() else export(source, out=folder / "export")
    manifest = read_export(exported)
    image = manifest["image"]
    if (image["channels"], image["height"], image["width"]) != (1, SIZE, SIZE) or len(manifest["class_names"]) != 10:
        raise BenchUsageError(f"--source {source}: draws {image} of {manifest['class_names']}; expected grey digits")
    if not manifest["conditional"]:
        raise BenchUsageError(f"--source {source}: takes no labels; expected a generator that can be asked for digits")
    scripted = "generator.ts" in manifest["files"]
    return Models(
        onnx=package(exported, folder / "onnx", "onnx"),
        torchscript=package(exported, folder / "torchscript", "torchscript") if scripted else None,
        generator=(exported / "generator.onnx").absolute(),
        conv=package(_PRETRAINED, folder / "conv", "onnx"),
        digit=_digit(),
    )


def _train(run_dir: Path) -> Path:
    words = ["train", "--preset", "quick", "--max-steps", str(STEPS), "--run-dir", str(run_dir), "--json"]
    done = run_module(["ganctl", *words])
    if done.returncode != 0:
        raise BenchError(f"`ganctl {' '.join(words)}` failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return Path(json.loads(done.stdout)["run_dir"])


def _digit() -> bytes:
    """The first 7 of the test images, as Pillow's PNG."""
    file = io.BytesIO()
    Image.fromarray(real_samples()[7, 0]).save(file, "PNG")
    return file.getvalue()
