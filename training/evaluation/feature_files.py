"""Inception features from a network file of the user, for the Fréchet distance as papers report it.

Two files are supported, both with the weights of Heusel et al. 2017 (arXiv:1706.08500):

- NVIDIA's TorchScript `inception-2015-12-05.pt` (github.com/NVlabs/stylegan3, metrics/metric_utils.py), called as
  `net(images, return_features=True)`;
- torch-fidelity's weights `pt_inception-2015-12-05-6726825d.pth`, which need that package.

Both take uint8 images [N, 3, H, W] of any size, resize them to 299 × 299, and return 2,048 features.
"""

import hashlib
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ganctl.training.errors import DataError, TrainingError

FEATURES = 2048
FLAG = "--features FILE"
_CHUNK = 50
_PROGRESS_SECONDS = 10  # between two progress messages


class FileFeatures:
    """An Inception network as a feature extractor, on a GPU if there is one.

    A CPU takes about 20 seconds for 100 images.
    """

    def __init__(self, path: Path, announce: Callable[[str], None] = lambda text: None) -> None:
        """Reads the file and tests it on two images.

        Raises:
            DataError: the file is absent, damaged, or a network other than the two above.
            TrainingError: the file holds torch-fidelity's weights, and the package is not installed.
        """
        self._announce = announce
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise _unusable(path, str(error.strerror)) from error
        self._run = _load_torchscript(path, self.device) if _is_torchscript(path) else _load_fidelity(path, self.device)
        try:
            with torch.no_grad():
                found = self._run(torch.zeros(2, 3, 28, 28, dtype=torch.uint8, device=self.device))
        except (RuntimeError, TypeError, ValueError) as error:  # errors of an arbitrary network
            fault = f"cannot be called with uint8 images [2, 3, 28, 28] ({_first_line(error)})"
            raise _unusable(path, fault) from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (2, FEATURES):
            raise _unusable(path, f"found features {shape} for two images, expected (2, {FEATURES})")

    @torch.no_grad()  # not inference mode: TorchScript fails in it after a call outside of it
    def __call__(self, images: Tensor) -> Tensor:
        """Computes features, float32 [N, 2048] on the CPU, of uint8 images [N, C, H, W] as in an ImageSet.

        Grayscale images are expanded to three equal channels. Transparent images are put on black.

        Raises:
            DataError: the images have another number of channels.
        """
        if images.shape[1] not in (1, 3, 4):
            expected = "1 (grayscale), 3 (RGB) or 4 (RGBA)"
            raise DataError(f"{FLAG}: found images of {images.shape[1]} channels, expected {expected}")
        images = images[:, :3]  # colors that are multiplied with alpha are those on black
        features, last_message = [], time.monotonic()
        for chunk in images.split(_CHUNK):
            features.append(self._run(chunk.to(self.device).expand(-1, 3, -1, -1).contiguous()).float().cpu())
            if time.monotonic() - last_message > _PROGRESS_SECONDS:
                last_message = time.monotonic()
                self._announce(f"Inception features: {len(features) * _CHUNK:,} of {len(images):,} images")
        return torch.cat(features)


def _unusable(path: Path, fault: str) -> DataError:
    expected = "NVIDIA's inception-2015-12-05.pt or torch-fidelity's pt_inception-2015-12-05-6726825d.pth"
    return DataError(f"{FLAG}: {path}: {fault}. Use {expected}")


def _is_torchscript(path: Path) -> bool:
    """Returns whether a file is TorchScript: a zip archive that contains code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _load_torchscript(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        try:
            network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise _unusable(path, f"damaged ({_first_line(error)})") from error
    return partial(network, return_features=True)


def _load_fidelity(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    try:  # the package would execute pickled code: check first that the file is safe
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise _unusable(path, f"neither TorchScript nor weights ({_first_line(error)})") from error
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        found = "these weights need a package that is not installed. Do pip install torch-fidelity"
        raise TrainingError(f"{FLAG}: {path}: {found}, or use NVIDIA's inception-2015-12-05.pt") from error
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError, AttributeError) as error:  # load_state_dict: other names, or no dict
        found = f"{len(weights)} tensors" if isinstance(weights, dict) else type(weights).__name__
        raise _unusable(path, f"found {found} of another network ({_first_line(error)})") from error
    network.to(device)
    return lambda images: network(images)[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
