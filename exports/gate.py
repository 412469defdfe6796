"""Gate of small forms: accepts a file by its scores and size, compared with those of the checkpoint's generator."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ganctl.exports.errors import GateError
from ganctl.exports.formats import onnx
from ganctl.exports.formats.base import example_inputs
from ganctl.exports.runtime import FileSource
from ganctl.training.data.base import Split
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.images.source import GeneratorSource
from ganctl.training.models.base import Generator
from ganctl.training.sampling.inspection import check_fit, open_checkpoint, override_data_settings

MAX_FD_GROWTH = 0.05
MAX_ACCURACY_LOSS = 0.003
_SPLIT: Split = "val"  # as for the choice of the best checkpoint
SCORED_IMAGES = 5000
_TIMED_IMAGES, _TIMED_SECONDS = 64, 0.2
_MIN_CALLS = 5


class Gate:
    """Scores small forms of one generator against the same real images, on the same latents."""

    def __init__(self, generator: Generator, evaluator: Evaluator) -> None:
        """Scores the generator.

        Args:
            generator: the checkpoint's generator.
            evaluator: scores images of the checkpoint's data set.
        """
        self._generator, self._evaluator = generator, evaluator
        self._expected = evaluator.score(GeneratorSource(generator, evaluator.class_names), full=False)

    def check(self, name: str, content: bytes, exact: bytes) -> dict[str, Any]:
        """Scores a small form, and measures its size and speed.

        Args:
            name: the file name, for the error.
            content: the small form.
            exact: the float32 ONNX file.

        Returns:
            fd, label_accuracy (None without valid labels), the same of the generator with the suffix _fp32, fd_growth
            (fd / fd_fp32 − 1), size_ratio (bytes by bytes of the exact file), speedup (of 64 images on one thread of
            this machine), num_images and measure.

        Raises:
            GateError: the Fréchet distance grows by more than MAX_FD_GROWTH, or the label accuracy falls by more than
                MAX_ACCURACY_LOSS.
        """
        dim, conditional = self._generator.latent_dim, self._generator.conditional
        names = self._evaluator.class_names
        if not (math.isfinite(self._expected["fd"] or math.nan) and self._expected["fd"] > 0):
            raise GateError(f"{name}: the generator has no Fréchet distance to compare with. Export without this form")
        source = FileSource(onnx.load(content), latent_dim=dim, conditional=conditional, class_names=names)
        scores, expected = self._evaluator.score(source, full=False), self._expected
        result = {
            "fd": scores["fd"],
            "fd_fp32": expected["fd"],
            "fd_growth": scores["fd"] / expected["fd"] - 1,
            "label_accuracy": scores["label_accuracy"],
            "label_accuracy_fp32": expected["label_accuracy"],
            "size_ratio": len(content) / len(exact),
            "speedup": self._seconds(exact) / self._seconds(content),
            "num_images": scores["num_images"],
            "measure": scores["measure"],
        }
        if not result["fd_growth"] <= MAX_FD_GROWTH:
            raise GateError(
                f"{name}: its Fréchet distance is {result['fd']:.4g}, {result['fd_growth']:+.1%} of"
                f" {result['fd_fp32']:.4g} in float32, expected at most {MAX_FD_GROWTH:+.0%}. Export without this form"
            )
        before, after = result["label_accuracy_fp32"], result["label_accuracy"]
        if before is not None and not before - after <= MAX_ACCURACY_LOSS:
            raise GateError(
                f"{name}: its label accuracy is {after:.2%}, {before:.2%} in float32, expected at most"
                f" {MAX_ACCURACY_LOSS * 100} points less. Export without this form"
            )
        return result

    def _seconds(self, content: bytes) -> float:
        """Returns the median time for 64 images on one thread."""
        run, inputs = onnx.load(content, threads=1), example_inputs(self._generator, _TIMED_IMAGES)
        return median_seconds(lambda: run(*inputs), _TIMED_SECONDS)


def open_gate(
    path: Path, generator: Generator, assignments: Sequence[str], announce: Callable[[str], None] = lambda text: None
) -> Gate:
    """Opens the validation images of a checkpoint, for the gate of its generator.

    Args:
        path: the checkpoint.
        generator: its generator.
        assignments: data settings in place of those of the checkpoint, such as `data.source=…`.
        announce: receives progress messages.

    Raises:
        DataError: the images cannot be read.
    """
    opened = open_checkpoint(path)
    data = override_data_settings(opened, assignments)
    check_fit(opened, load_split(data, _SPLIT), path)
    evaluator = Evaluator(data, _SPLIT, num_images=SCORED_IMAGES, announce=announce, cache=TensorCache(announce))
    return Gate(generator, evaluator)


@torch.inference_mode()
def median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Returns the median duration of the calls within `seconds`, at least five, after two for warming up."""
    for _ in range(2):
        run()
    durations: list[float] = []
    while len(durations) < _MIN_CALLS or sum(durations) < seconds:
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def describe(result: dict[str, Any]) -> str:
    """Returns the result of `Gate.check` as a sentence."""
    accuracy = result["label_accuracy"], result["label_accuracy_fp32"]
    labels = "" if None in accuracy else "; label accuracy {1:.2%} → {0:.2%}".format(*accuracy)
    gain = "" if result["speedup"] > 1.05 else ", so it gains no speed on this CPU"
    return (
        f"{result['size_ratio']:.2f} × the size and {result['speedup']:.2f} × the speed of float32 (64 images, one"
        f" thread){gain}; Fréchet distance {result['fd_fp32']:.4g} → {result['fd']:.4g}"
        f" ({result['fd_growth']:+.1%}){labels}"
    )
