"""Features of an Inception network that the user supplies, for the Fréchet distance as papers report it.

Two files are known, both of the weights that Heusel et al. 2017 (arXiv:1706.08500) used:

- NVIDIA's TorchScript `inception-2015-12-05.pt` (github.com/NVlabs/stylegan3, metrics/metric_utils.py), called as
  `net(images, return_features=True)`;
- torch-fidelity's weights `pt_inception-2015-12-05-6726825d.pth`, run by that package.

Both take uint8 images [N, 3, H, W] of any size, enlarge them to 299 × 299 themselves, and give 2,048 features.
"""

import hashlib
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ganctl.training.errors import DataError, TrainingError

FEATURES = 2048
FLAG = "--features inception=FILE"
_CHUNK = 50
_SECONDS = 10  # between two lines of progress


class PackageMissingError(TrainingError):
    """A package that only this option needs is not installed."""


class Inception:
    """An Inception network as a function of images; on the GPU where there is one (a CPU takes a third of a minute for
    100 images)."""

    def __init__(self, path: Path, announce: Callable[[str], None] = lambda text: None) -> None:
        """Reads the file and tries it on two images.

        Raises:
            DataError: the file is absent, damaged, or another network than the two above.
            PackageMissingError: the weights are torch-fidelity's, which is not installed.
        """
        self._announce = announce
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{FLAG}: {path}: {error.strerror}; expected {_EXPECTED}") from error
        self._run = _scripted(path, self.device) if _is_script(path) else _fidelity(path, self.device)
        try:
            with torch.no_grad():
                found = self._run(torch.zeros(2, 3, 28, 28, dtype=torch.uint8, device=self.device))
        except (RuntimeError, TypeError, ValueError) as error:
            # whatever a foreign network says of such a call
            raise DataError(
                f"{FLAG}: {path}: cannot be called with uint8 images [2, 3, 28, 28] ({_first_line(error)});"
                f" expected {_EXPECTED}"
            ) from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (2, FEATURES):
            raise DataError(f"{FLAG}: {path}: gives {shape} for two images, expected (2, {FEATURES}), as {_EXPECTED}")

    @torch.no_grad()  # not inference mode: TorchScript fails in it where it has run outside of it before
    def __call__(self, images: Tensor) -> Tensor:
        """Features, float32 [N, 2048] on the CPU, of uint8 images [N, 1 or 3, H, W]; grey becomes three equal channels.

        Raises:
            DataError: the images have another number of channels.
        """
        if images.shape[1] not in (1, 3):
            raise DataError(f"{FLAG}: images of {images.shape[1]} channels; the network takes grey ones and RGB")
        features, told = [], time.monotonic()
        for chunk in images.split(_CHUNK):
            found = self._run(chunk.to(self.device).expand(-1, 3, -1, -1).contiguous())
            features.append(found.float().cpu())
            if time.monotonic() - told > _SECONDS:
                told = time.monotonic()
                self._announce(f"Inception features: {len(features) * _CHUNK:,} of {len(images):,} images")
        return torch.cat(features)


_EXPECTED = "inception-2015-12-05.pt of NVIDIA or pt_inception-2015-12-05-6726825d.pth of torch-fidelity"
_Run = Callable[[Tensor], Tensor]


def _is_script(path: Path) -> bool:
    """Whether a file is TorchScript: an archive with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _scripted(path: Path, device: torch.device) -> _Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        try:
            network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise DataError(f"{FLAG}: {path}: damaged ({_first_line(error)}); expected {_EXPECTED}") from error

    def run(images: Tensor) -> Tensor:
        features: Tensor = network(images, return_features=True)
        return features

    return run


def _fidelity(path: Path, device: torch.device) -> _Run:
    try:  # without executing pickled code, which the package would do: what passes here is safe there
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{FLAG}: {path}: neither TorchScript nor weights ({_first_line(error)}); expected {_EXPECTED}"
        ) from error
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise PackageMissingError(
            f"{FLAG}: {path} holds weights, which the package torch-fidelity runs; it is not installed: pip install"
            " torch-fidelity (the extra `inception`), or give NVIDIA's inception-2015-12-05.pt"
        ) from error
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError, AttributeError) as error:  # load_state_dict, of other names or of no dict at all
        found = f"{len(weights)} tensors" if isinstance(weights, dict) else type(weights).__name__
        raise DataError(
            f"{FLAG}: {path}: {found} of another network ({_first_line(error)}); expected {_EXPECTED}"
        ) from error
    assert isinstance(network, nn.Module)
    network.to(device)

    def run(images: Tensor) -> Tensor:
        features: Tensor = network(images)[0]
        return features

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
