"""TorchScript files: a network with its code. Reading one executes that code."""

import warnings
import zipfile
from functools import partial
from pathlib import Path

import torch

from ganctl.training.evaluation.feature_files.base import SIZE, LoadedNetwork, normalize, reason, unusable


def recognizes(path: Path) -> bool:
    """Returns whether a file is TorchScript: a zip archive that contains code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def load(path: Path, device: torch.device) -> LoadedNetwork:
    """Loads one of two kinds of networks.

    Networks of NVIDIA (github.com/NVlabs/stylegan3, metrics/metric_utils.py) have an argument `return_features`. They
    take uint8 images of any size, which they resize. All others take images of `normalize`, [N, 3, 224, 224].

    Raises:
        DataError: the file is damaged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        try:
            network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise unusable(path, f"damaged TorchScript ({reason(error)})", "an intact file") from error
    if any(argument.name == "return_features" for argument in network.forward.schema.arguments):
        return LoadedNetwork(partial(network, return_features=True), "TorchScript with return_features")
    return LoadedNetwork(lambda images: network(normalize(images, (SIZE, SIZE))), "TorchScript")
