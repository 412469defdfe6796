"""Animations: closed walks through latent space with the requested images as keyframes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganctl.training.images.interpolation import walk_labels, walk_latents
from ganctl.training.images.source import GeneratorSource, Source
from ganctl.training.sampling.local_sampler import LocalSampler
from ganctl.training.sampling.request import DEFAULT_KEYFRAMES, FRAMES_PER_KEYFRAME, SampleRequest, SampleRequestError

_MAX_FRAMES = 1200  # without --frames


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
    z, labels, seed = sample_keyframes(request, sampler)
    try:
        return Animation(walk_images(sampler.source, z, labels, frames), seed, len(z))
    except WalkError as error:
        flag, remedy = {
            "keyframes": ("--out", "Name different digits, a larger --count or --truncation"),
            "frames": (f"--frames {frames}", "Take more frames"),
            "labels": (request.class_flag or "--out", "Name one, or a single --label to walk through its styles"),
        }[error.cause]
        raise SampleRequestError(f"{flag}: {error}. {remedy}") from error


class WalkError(ValueError):
    """A walk that a source cannot generate; the message states what was found and expected, without a remedy.

    Attributes:
        cause: the argument of `walk_images` at fault.
    """

    def __init__(self, cause: Literal["keyframes", "frames", "labels"], message: str) -> None:
        super().__init__(message)
        self.cause = cause


def walk_images(source: Source, z: Tensor, labels: Tensor, frames: int | None = None) -> NDArray[np.uint8]:
    """Generates the frames of a closed walk, uint8 [frames, H, W, C], which passes each keyframe.

    Args:
        source: generates the images.
        z: latents of the keyframes, float32 [K, latent_dim].
        labels: labels of the keyframes, int64 [K]; ignored if the generator is unconditional.
        frames: number of frames; None: 24 per keyframe, but at most 1,200.

    Raises:
        WalkError: all keyframes are equal, there are more keyframes than frames, or the source cannot mix labels.
    """
    if (z == z[0]).all() and (labels == labels[0]).all():
        found = "an animation walks from image to image: found equal images only, expected two different ones"
        raise WalkError("keyframes", found)
    frames = frames or max(len(z), min(FRAMES_PER_KEYFRAME * len(z), _MAX_FRAMES))
    if frames < len(z):
        raise WalkError("frames", f"the walk passes {len(z)} images, expected as many frames or more")
    path = walk_latents(z, frames)
    if not source.conditional or (labels == labels.roll(-1)).all():
        images = source.generate(path, labels[:1].expand(frames))
    elif isinstance(source, GeneratorSource) and source.can_mix_labels:
        images = source.generate_mixed(path, walk_labels(labels, len(source.class_names), frames))
    else:
        found = "this source cannot mix labels, expected a run or a checkpoint whose generator has an `embedding`"
        raise WalkError("labels", found)
    return images.permute(0, 2, 3, 1).numpy()


def sample_keyframes(request: SampleRequest, sampler: LocalSampler) -> tuple[Tensor, Tensor, int]:
    """Draws the latents [K, D] and the labels [K] of the keyframes; returns them with the first seed.

    The classes are repeated, with one latent per repetition. Without classes, each keyframe has its own latent, and its
    label follows from the seed.
    """
    names = range(sampler.count_classes()) if request.per_class else request.class_names
    classes = torch.tensor([sampler.class_index(name) for name in names], dtype=torch.int64)
    if request.text or request.per_class:
        count = (request.count or request.per_class or 1) * len(classes)
    else:
        count = request.count or (len(classes) if len(classes) > 1 else DEFAULT_KEYFRAMES)
    per_latent = max(1, len(classes))
    seeds = request.seeds(-(-count // per_latent), sampler.max_images())
    z = torch.cat([sampler.latents(seed, n, request.truncation) for seed, n in seeds])
    if not len(classes):
        return z, torch.from_numpy(np.concatenate([sampler.labels(seed, n) for seed, n in seeds])), seeds[0][0]
    indices = torch.arange(count)
    return z[indices // per_latent], classes[indices % per_latent], seeds[0][0]
