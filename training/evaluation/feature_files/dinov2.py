"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), whose features judge images as people do better than Inception's.

Stein et al. 2023 (arXiv:2306.04675) compared them. The forward pass follows github.com/facebookresearch/dinov2,
dinov2/models/vision_transformer.py. The names of the weights are those of timm, to which other names are converted.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

PATCH = 14  # pixels
_HEAD = 64  # channels of an attention head, in each size of the network
_EPSILON = 1e-6
_OFFSET = 0.1  # that the original adds to the size of a grid of positions, against rounding
# name of facebookresearch/dinov2 or Hugging Face → name of timm
_RENAMES = (
    (r"^dinov2(_with_registers)?\.", ""),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^register_tokens$", "reg_token"),
)
_UNUSED = re.compile(r"mask_token$|head\.|classifier\.")


class DinoV2(nn.Module):
    """Vision transformer with layer scale: ViT-S/14, B/14 or L/14, with or without register tokens."""

    def __init__(self, *, width: int, hidden: int, depth: int, grid: int, registers: int) -> None:
        """Takes the sizes: channels, hidden channels, number of blocks, side of the grid of positions, registers."""
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))  # with its position
        self.pos_embed = nn.Parameter(torch.empty(1, grid**2, width))
        self.reg_token = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        self.blocks = nn.ModuleList([_Block(width, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.description = f"DINOv2 with {depth} blocks of {width:,} channels"
        self.description += f" and {registers} registers" if registers else ""

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [N, 3, H, W], sides multiples of 14 → normalized class tokens [N, F]."""
        x = self.patch_embed["proj"](images)
        x = x.flatten(2).transpose(1, 2) + self._positions(x.shape[2], x.shape[3])
        tokens = [self.cls_token, *([] if self.reg_token is None else [self.reg_token])]
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in tokens), x], dim=1)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.norm(x[:, 0])
        return result

    def _positions(self, height: int, width: int) -> Tensor:
        """The positions of a grid, [1, height · width, F], interpolated as the original does it.

        Networks without registers use scale factors with an offset, those with registers a filter against aliasing.
        """
        grid = math.isqrt(self.pos_embed.shape[1])
        if grid == height == width:
            return self.pos_embed
        positions = self.pos_embed.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        if self.reg_token is None:
            factors = ((height + _OFFSET) / grid, (width + _OFFSET) / grid)
            positions = interpolate(positions, scale_factor=factors, mode="bicubic")
        else:
            positions = interpolate(positions, size=(height, width), mode="bicubic", antialias=True)
        return positions.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """A transformer block with normalization before attention and MLP, and a learned scale after them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPSILON), nn.LayerNorm(width, eps=_EPSILON)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": nn.Parameter(torch.empty(width))}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, -1, _HEAD)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](attended)
        hidden = gelu(self.mlp["fc1"](self.norm2(x)))
        result: Tensor = x + self.ls2["gamma"] * self.mlp["fc2"](hidden)
        return result


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether names are those of DINOv2: a vision transformer with class token, positions and layer scale."""
    return {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.ls1.gamma"} <= _rename(tensors).keys()


def build(tensors: Mapping[str, Tensor]) -> DinoV2:
    """Builds the network of weights for which `recognizes` is True, in evaluation mode.

    Raises:
        ValueError, RuntimeError: weights are missing, or have shapes of another network.
    """
    weights = {name: tensor.float() for name, tensor in _rename(tensors).items() if not _UNUSED.match(name)}
    patch, positions = weights["patch_embed.proj.weight"], weights["pos_embed"]
    width = weights["cls_token"].shape[-1]
    if patch.shape[2:] != (PATCH, PATCH) or width % _HEAD:
        raise ValueError(f"a vision transformer of {width} channels with patches of {list(patch.shape[2:])} pixels")
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for prefix in (f"blocks.{index}.attn." for index in range(depth)):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{prefix}{name}.{kind}", None) for name in "qkv"]
            present = [part for part in parts if part is not None]
            if present:
                weights[f"{prefix}qkv.{kind}"] = torch.cat(present)
    grid = math.isqrt(positions.shape[1])
    if grid**2 != positions.shape[1]:  # the first position is that of the class token
        weights["cls_token"] = weights["cls_token"] + positions[:, :1]
        weights["pos_embed"] = positions[:, 1:]
        grid = math.isqrt(positions.shape[1] - 1)
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    hidden = len(weights.get("blocks.0.mlp.fc1.weight", ()))
    with torch.device("meta"):
        network = DinoV2(width=width, hidden=hidden, depth=depth, grid=grid, registers=registers)
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()


def _rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
