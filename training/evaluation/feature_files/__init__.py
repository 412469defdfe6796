"""Features of a network file of the user, for distances in another feature space than that of the package.

A file holds a network in TorchScript or ONNX, or weights that are recognized by their names (`weights.py`).
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ganctl.files import sha256_of
from ganctl.training.data.base import put_on_white
from ganctl.training.device.turns import in_turns
from ganctl.training.errors import DataError
from ganctl.training.evaluation.feature_files import onnx, torchscript, weights
from ganctl.training.evaluation.feature_files.base import FLAG, LoadedNetwork, reason, unusable

MAX_FEATURES = 8192  # the covariance of so many takes 0.5 GB
_CHUNK = 50  # images
_PROGRESS_SECONDS = 10  # between two progress messages
_OUTPUTS = "float features [N, F], [N, F, height, width] or [N, tokens, F]"


class FileFeatures:
    """A network file as a feature extractor, on a GPU if there is one.

    Attributes:
        digest: SHA-256 of the file; of the digests of all files, if an ONNX file has its weights in further ones.
        device: of the network; ONNX Runtime uses the CPU if it is built without CUDA.
    """

    def __init__(self, path: Path, announce: Callable[[str], None] = lambda text: None) -> None:
        """Reads the file and tests it on two images.

        Args:
            path: the file.
            announce: receives a line about the network, and progress messages.

        Raises:
            DataError: the file is absent or damaged, or holds a network that gives no features of images.
            TrainingError: the file holds weights for torch-fidelity, and the package is not installed.
        """
        self._path, self._announce = path, announce
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            digests = [sha256_of(path)]
        except OSError as error:
            raise DataError(f"{FLAG}: {path}: {error.strerror}. Name a file of a network") from error
        self._network = _load(path, self.device)
        digests += map(sha256_of, self._network.further_files)
        self.digest = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
        probe = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
        try:
            with torch.no_grad():
                features = self._compute(probe)
        except Exception as error:  # an arbitrary network may raise any
            fault = f"{self._network.description} gave no features of two images ({reason(error)})"
            raise unusable(path, fault, f"a network that maps images to {_OUTPUTS}") from error
        count = features.shape[1]
        if not 2 <= count <= MAX_FEATURES:
            raise unusable(path, f"found {count:,} features of an image", f"2 to {MAX_FEATURES:,}")
        announce(f"features of {path.name}: {self._network.description}, {count:,} values")

    @torch.no_grad()  # not inference mode: TorchScript fails in it after a call outside of it
    def __call__(self, images: Tensor) -> Tensor:
        """Computes features, float32 [N, F] on the CPU, of uint8 images [N, C, H, W] as in an ImageSet.

        Grayscale images are expanded to three equal channels. Transparent images are put on white.

        Raises:
            DataError: the images have another number of channels, or a feature is NaN or infinite.
        """
        if images.shape[1] not in (1, 3, 4):
            expected = "1 (grayscale), 3 (RGB) or 4 (RGBA)"
            raise DataError(f"{FLAG}: found images of {images.shape[1]} channels, expected {expected}")
        features, last_message = [], time.monotonic()
        for chunk in in_turns(images.split(_CHUNK)):
            features.append(self._compute(chunk))
            if not features[-1].isfinite().all():
                raise unusable(self._path, "found features that are NaN or infinite", "finite ones")
            if time.monotonic() - last_message > _PROGRESS_SECONDS:
                last_message = time.monotonic()
                done = min(len(features) * _CHUNK, len(images))
                self._announce(f"features of {self._path.name}: {done:,} of {len(images):,} images")
        return torch.cat(features)

    def _compute(self, images: Tensor) -> Tensor:
        colors = put_on_white(images).expand(-1, 3, -1, -1).to(self.device).contiguous()
        return _pool(self._network.run(colors), len(images)).float().cpu()


def _load(path: Path, device: torch.device) -> LoadedNetwork:
    if onnx.recognizes(path):
        return onnx.load(path, device)
    return torchscript.load(path, device) if torchscript.recognizes(path) else weights.load(path, device)


def _pool(output: object, n: int) -> Tensor:
    """Returns the features [N, F] in the output of a network for N images.

    They are the output, its mean over all positions, or its first token, which is the class token. Of several outputs
    the first counts.

    Raises:
        TypeError, ValueError: the output is another.
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"found an output {type(output).__name__}")
    if output.ndim not in (2, 3, 4) or len(output) != n or not output.is_floating_point():
        raise ValueError(f"found an output {str(output.dtype).removeprefix('torch.')} {list(output.shape)}")
    if output.ndim == 4:
        return output.float().mean(dim=(2, 3))
    return output[:, 0] if output.ndim == 3 else output
