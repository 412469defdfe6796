"""Weights without code, in safetensors or of torch.save, that are recognized by the names of their tensors.

- Inception of Heusel et al. 2017 (arXiv:1706.08500), `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid and
  torch-fidelity; the latter package runs it;
- `inception_v3` of torchvision;
- DINOv2 (`dinov2.py`).
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ganctl.training.errors import TrainingError
from ganctl.training.evaluation.feature_files import dinov2
from ganctl.training.evaluation.feature_files.base import FLAG, SIZE, LoadedNetwork, normalize, reason, unusable

_INCEPTION_SIZE = 299
_EXPECTED = "weights of Inception (pytorch-fid, torch-fidelity or torchvision) or of DINOv2 ViT-S/14, B/14 or L/14"


def load(path: Path, device: torch.device) -> LoadedNetwork:
    """Reads weights and builds their network.

    Raises:
        DataError: the file is damaged, or holds weights of another network.
        TrainingError: the network needs torch-fidelity, which is not installed.
    """
    tensors = _read(path)
    try:
        if "Mixed_7c.branch_pool.conv.weight" in tensors and "fc.weight" in tensors:
            load_network = _load_torchvision if len(tensors["fc.weight"]) == 1000 else _load_fidelity
            return load_network(path, tensors, device)
        if dinov2.recognizes(tensors):
            network = dinov2.build(tensors).to(device)
            return LoadedNetwork(lambda images: network(normalize(images, (SIZE, SIZE))), network.description)
    except (RuntimeError, ValueError) as error:  # tensors of other shapes, or some are missing
        raise unusable(path, f"found weights that do not fit ({reason(error)})", _EXPECTED) from error
    names = ", ".join([*sorted(tensors)[:3], *(["…"] if len(tensors) > 3 else [])])
    raise unusable(path, f"found {len(tensors):,} tensors of another network ({names})", _EXPECTED)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise unusable(path, f"damaged safetensors ({reason(error)})", "an intact file") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # executes no code
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        fault = f"neither TorchScript nor weights ({reason(error)})"
        raise unusable(path, fault, f"a network in TorchScript, a name that ends in .onnx, or {_EXPECTED}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise unusable(path, f"found a {type(content).__name__} of other values than tensors", _EXPECTED)
    return content


def _load_torchvision(path: Path, tensors: Mapping[str, Tensor], device: torch.device) -> LoadedNetwork:
    from torchvision.models import Inception3

    with torch.device("meta"):
        network = Inception3(aux_logits=False, transform_input=True, init_weights=False)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("AuxLogits.")}
    network.load_state_dict(kept, assign=True)
    network.fc = nn.Identity()
    network.float().eval().to(device)
    size = (_INCEPTION_SIZE, _INCEPTION_SIZE)
    return LoadedNetwork(lambda images: network(normalize(images, size)), "inception_v3 of torchvision")


def _load_fidelity(path: Path, tensors: Mapping[str, Tensor], device: torch.device) -> LoadedNetwork:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        found = "these weights need a package that is not installed. Do pip install torch-fidelity"
        raise TrainingError(f"{FLAG}: {path}: {found}, or use NVIDIA's inception-2015-12-05.pt") from error
    content = io.BytesIO()  # the package would read the file in a way that executes pickled code
    torch.save(dict(tensors), content)
    content.seek(0)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=content)
    network.to(device)
    return LoadedNetwork(network, "Inception of 2015 by torch-fidelity")
