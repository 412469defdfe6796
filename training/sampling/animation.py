"""Animations: closed walks through latent space with the requested images as keyframes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganctl.training.images.interpolation import walk_labels, walk_latents
from ganctl.training.images.source import GeneratorSource
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import SampleRequest, SampleRequestError

_FRAMES_PER_KEYFRAME = 24
_MAX_FRAMES = 1200  # without --frames
_DEFAULT_KEYFRAMES = 8  # if a single image is requested


@dataclass(frozen=True)
class Animation:
    """The frames of a walk."""

    frames: NDArray[np.uint8]  # [F, H, W, C]
    seed: int
    keyframes: int  # number of requested images that the walk passes


def sample_animation(request: SampleRequest, sampler: LocalSampler, frames: int | None) -> Animation:
    """Draws a closed walk through the requested images.

    A list of classes (labels, all classes, or a text) keeps one latent: the walk goes from class to class in one
    style, and each repetition of the list has another one.

    Args:
        request: the keyframes.
        sampler: samples the images.
        frames: number of frames of the whole walk; None: 24 per keyframe.

    Raises:
        SampleRequestError: all keyframes are equal, there are too few frames, or the source cannot interpolate labels.
    """
    sampler.check(request)
    source = sampler.source
    names = range(sampler.count_classes()) if request.per_class else request.class_names
    classes = torch.tensor([sampler.class_index(name) for name in names], dtype=torch.int64)
    z, labels, seed = _sample_keyframes(request, sampler, classes)
    if (z == z[0]).all() and (labels == labels[0]).all():
        found = "an animation walks from image to image: found equal images only, expected two different ones"
        raise SampleRequestError(f"--out: {found}. Name different digits, a larger --count or --truncation")
    frames = frames or max(len(z), min(_FRAMES_PER_KEYFRAME * len(z), _MAX_FRAMES))
    if frames < len(z):
        raise SampleRequestError(f"--frames {frames}: the walk passes {len(z)} images, expected as many frames or more")
    path = walk_latents(z, frames)
    if not source.conditional or (labels == labels.roll(-1)).all():
        images = source.generate(path, labels[:1].expand(frames))
    elif isinstance(source, GeneratorSource) and source.can_mix_labels:
        images = source.generate_mixed(path, walk_labels(labels, sampler.count_classes(), frames))
    else:
        found = "this source cannot mix labels, expected a run or a checkpoint whose generator has an `embedding`"
        flag = request.class_flag or "--out"
        raise SampleRequestError(f"{flag}: {found}. Name one, or a single --label to walk through its styles")
    return Animation(images.permute(0, 2, 3, 1).numpy(), seed, len(z))


def _sample_keyframes(request: SampleRequest, sampler: LocalSampler, classes: Tensor) -> tuple[Tensor, Tensor, int]:
    """Draws the latents [K, D] and the labels [K] of the keyframes; returns them with the first seed.

    The classes are repeated, with one latent per repetition. Without classes, each keyframe has its own latent, and its
    label follows from the seed.
    """
    if request.text or request.per_class:
        count = (request.count or request.per_class or 1) * len(classes)
    else:
        count = request.count or (len(classes) if len(classes) > 1 else _DEFAULT_KEYFRAMES)
    per_latent = max(1, len(classes))
    seeds = request.seeds(-(-count // per_latent), sampler.max_images())
    z = torch.cat([sampler.latents(seed, n, request.truncation) for seed, n in seeds])
    if not len(classes):
        return z, torch.from_numpy(np.concatenate([sampler.labels(seed, n) for seed, n in seeds])), seeds[0][0]
    indices = torch.arange(count)
    return z[indices // per_latent], classes[indices % per_latent], seeds[0][0]
