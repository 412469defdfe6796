"""Random, differentiable changes of images: those of DiffAugment (Zhao et al. 2020, arXiv:2006.10738, section 4).

Color (brightness, saturation, contrast), translation and cutout. Each is applied to each image independently with
probability p, as in Karras et al. 2020 (arXiv:2006.06676, section 2.2). The set is small for three reasons:

- No operation resamples. Interpolation blurs, so at p = 1 the generator would never learn fine details.
- None mirrors or rotates, which changes the meaning of digits and letters (`augment.flip` mirrors on request).
- They cost little: a few elementwise passes, and a copy of rows.

Unlike in DiffAugment, factors of colors are at most 1 and brightness blends with black or white, so that a valid image
stays valid: values stay in [−1, 1] without clamping, which would stop gradients, and premultiplied colors stay below
alpha. Pixels from outside of an image, and cut ones, are −1: black, and transparent if there is an alpha channel.
"""

from typing import Any

import torch
from torch import Tensor

from ganctl.training.device.step_inputs import Number

_BRIGHTNESS = 0.5  # largest share of white or black
_CONTRAST = 0.5  # largest reduction
_TRANSLATION = 1 / 8  # largest shift, as a share of the side
_CUTOUT = 1 / 2  # side of the cut square, as a share of the image's
_BACKGROUND = -1.0
_OPERATIONS = 5  # brightness, saturation, contrast, translation, cutout
RANDOM_NUMBERS = _OPERATIONS + 7  # per image: one to choose each operation, and the amounts


def augment(images: Tensor, numbers: Tensor, probability: Number) -> Tensor:
    """Changes each image at random; differentiable in the images, and with p = 0 the identity, bit by bit.

    The operations and shapes do not depend on `probability`, and nothing is read on the host, so that a CUDA graph can
    capture it. The gradient is deterministic on every device: it adds up nothing in parallel.

    Args:
        images: [N, C, H, W] in [−1, 1]; with 4 channels, colors are premultiplied with alpha, the last channel.
        numbers: uniform random numbers in [0, 1), [N, RANDOM_NUMBERS]. Operation i of brightness, saturation, contrast,
            translation and cutout is applied where column i is below the probability; the others are the amounts.
        probability: p of each operation, 0 … 1; a scalar tensor on the device of the images, or a float.

    Returns:
        The changed images, [N, C, H, W] in [−1, 1].
    """
    applied = (numbers[:, :_OPERATIONS] < probability).to(images.dtype)
    amounts = numbers[:, _OPERATIONS:]
    colored = _change_colors(images, applied[:, :3], amounts[:, :3])
    moved = _move(colored, applied[:, 3:4], amounts[:, 3:5])
    return _cut_out(moved, applied[:, 4:5], amounts[:, 5:7])


def _change_colors(images: Tensor, applied: Tensor, amounts: Tensor) -> Tensor:
    """Brightness, then saturation, then contrast, as one affine map per image.

    With unit colors u = (x + 1) / 2, their mean ū over the channels, and alpha α (1 without an alpha channel):
    brightness β blends u with white (α) or black (0), saturation σ with ū, contrast κ with α times the mean color
    μ = Σu / Σα. Together u' = f·u + h·ū + o·α, where f + h = (1 − κ)(1 − |β|), h is the share σ of that, and
    o = max(β, 0) + κ(1 − |β|)μ.

    Args:
        images: [N, C, H, W].
        applied: 1 for an applied operation, else 0, [N, 3].
        amounts: uniform in [0, 1), [N, 3].
    """
    by_image = (-1, 1, 1, 1)
    brightness = (_BRIGHTNESS * applied[:, 0] * (2 * amounts[:, 0] - 1)).view(by_image)
    saturation = (applied[:, 1] * amounts[:, 1]).view(by_image)
    contrast = (_CONTRAST * applied[:, 2] * amounts[:, 2]).view(by_image)
    transparent = images.shape[1] == 4
    colors, alpha = (images[:, :3], images[:, 3:].add(1).mul(0.5)) if transparent else (images, None)
    kept = 1 - brightness.abs()
    unit_mean = colors.mean(dim=(1, 2, 3), keepdim=True).add(1).mul(0.5)
    if alpha is not None:
        unit_mean = unit_mean / alpha.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)  # 0 / 0 if all is transparent
    offset = 2 * (brightness.clamp(min=0) + contrast * kept * unit_mean)
    total = kept * (1 - contrast)
    if colors.shape[1] == 1:  # gray has no saturation
        factor, rest = total, total - 1
    else:
        gray = total * saturation
        factor, rest = total - gray, gray * colors.mean(dim=1, keepdim=True) + (total - 1)
    rest = rest + (offset if alpha is None else offset * alpha)
    changed = torch.addcmul(rest, colors, factor)
    return changed if alpha is None else torch.cat([changed, images[:, 3:]], dim=1)


def _move(images: Tensor, applied: Tensor, amounts: Tensor) -> Tensor:
    """Translates by whole pixels; `applied` is [N, 1], `amounts` [N, 2]."""
    shifts = [
        ((2 * amounts[:, axis] - 1) * (margin + 0.5)).round().clamp(-margin, margin) * applied[:, 0]
        for axis, margin in enumerate(_margins(images))
    ]
    moved: Tensor = _Translate.apply(images, torch.stack(shifts).long(), _BACKGROUND)
    return moved


def _cut_out(images: Tensor, applied: Tensor, amounts: Tensor) -> Tensor:
    """Replaces a square, whose center is any pixel, by the background; `applied` is [N, 1], `amounts` [N, 2]."""
    inside = []
    for axis, side in enumerate(images.shape[2:]):
        size = int(side * _CUTOUT + 0.5)
        start = (amounts[:, axis : axis + 1] * side).floor() - size // 2
        position = torch.arange(side, device=images.device)
        inside.append((position >= start) & (position < start + size))  # [N, side]
    cut = (inside[0][:, :, None] & inside[1][:, None]) * applied[:, :, None]
    kept = (1 - cut)[:, None]
    return torch.addcmul(_BACKGROUND * (1 - kept), images, kept)  # several times as fast as masked_fill


def _margins(images: Tensor) -> list[int]:
    """The largest translations of images [N, C, H, W], down and right, in pixels."""
    return [int(side * _TRANSLATION + 0.5) for side in images.shape[2:]]


class _Translate(torch.autograd.Function):
    """Translates each image by its own number of pixels; the gradient is the opposite translation."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, shifts: Tensor, fill: float) -> Tensor:
        """`images` [N, C, H, W]; `shifts` int64 [2, N], down and right; `fill`: the value of uncovered pixels."""
        ctx.save_for_backward(shifts)
        n, channels, height, width = images.shape
        top, left = _margins(images)
        padded = images.new_full((n, channels, height + 2 * top, width + 2 * left), fill)
        padded[:, :, top : top + height, left : left + width] = images
        # the first element of each translated row; copying rows is twice as fast as gathering pixels
        rows = torch.arange(height, device=images.device) + (top - shifts[0])[:, None, None]
        planes = torch.arange(n * channels, device=images.device).view(n, channels, 1)
        start = (planes * padded.shape[2] + rows) * padded.shape[3] + (left - shifts[1])[:, None, None]
        return padded.view(-1).unfold(0, width, 1)[start.flatten()].view(images.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (shifts,) = ctx.saved_tensors
        return _Translate.apply(grads[0], -shifts, 0.0), None, None
