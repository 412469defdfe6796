"""Draws a film: a closed walk through latent space with the requested images as keyframes."""

import numpy as np
import torch
from torch import Tensor

from ganctl.training.images.interpolation import walk_labels, walk_latents
from ganctl.training.images.source import GeneratorSource
from ganctl.training.sampling.request import Film, SampleRequest, SampleRequestError
from ganctl.training.sampling.samplers import LocalSampler

_FRAMES_PER_KEYFRAME = 24
_MAX_FRAMES = 1200  # of a film without --frames
_DEFAULT_KEYFRAMES = 8  # if a single image is requested


def draw_walk(request: SampleRequest, sampler: LocalSampler, frames: int | None) -> Film:
    """Draws a closed walk through the requested images.

    A list of classes (labels, all classes, or a text) keeps one latent: the walk goes from class to class in one
    style, and each repetition of the list has another one.

    Args:
        request: the keyframes.
        sampler: draws the images.
        frames: number of frames of the whole film; None: 24 per keyframe.

    Raises:
        SampleRequestError: all keyframes are equal, there are too few frames, or the source cannot interpolate labels.
    """
    sampler.check(request)
    source = sampler.source
    names = range(sampler.count_classes()) if request.per_class else request.class_names
    classes = torch.tensor([sampler.class_index(name) for name in names], dtype=torch.int64)
    if not len(classes):
        z, labels, seed = _seeded_keyframes(request, sampler)
    else:
        z, labels, seed = _class_keyframes(request, sampler, classes)
    if (z == z[0]).all() and (labels == labels[0]).all():
        raise SampleRequestError(
            "--out: a film walks from image to image: found equal images only, expected two different ones. Name"
            " different digits, a --count of 2 or more, or a --truncation above 0"
        )
    frames = frames or max(len(z), min(_FRAMES_PER_KEYFRAME * len(z), _MAX_FRAMES))
    if frames < len(z):
        raise SampleRequestError(f"--frames {frames}: the walk passes {len(z)} images, expected as many frames or more")
    path = walk_latents(z, frames)
    if not source.conditional or (labels == labels.roll(-1)).all():
        images = source.draw(path, labels[:1].expand(frames))
    elif isinstance(source, GeneratorSource) and source.can_mix_labels:
        images = source.draw_mixed(path, walk_labels(labels, sampler.count_classes(), frames))
    else:
        raise SampleRequestError(
            f"{request.class_flag or '--out'}: found a source that takes whole labels only, such as an exported file,"
            " expected a run or a checkpoint whose generator has an `embedding`. Name the run, or a single --label to"
            " walk through its styles"
        )
    return Film(images.permute(0, 2, 3, 1).numpy(), seed, len(z))


def _seeded_keyframes(request: SampleRequest, sampler: LocalSampler) -> tuple[Tensor, Tensor, int]:
    """Keyframes with a latent each, whose labels follow from the seed: latents [K, D], labels [K], first seed."""
    seeds = request.seeds(request.count or _DEFAULT_KEYFRAMES)
    z = torch.cat([sampler.latents(seed, count, request.truncation) for seed, count in seeds])
    labels = torch.from_numpy(np.concatenate([sampler.labels(seed, count) for seed, count in seeds]))
    return z, labels, seeds[0][0]


def _class_keyframes(request: SampleRequest, sampler: LocalSampler, classes: Tensor) -> tuple[Tensor, Tensor, int]:
    """Keyframes that repeat `classes`, with one latent per repetition: latents [K, D], labels [K], first seed."""
    if request.text or request.per_class:
        keyframes = (request.count or request.per_class or 1) * len(classes)
    else:
        keyframes = request.count or (len(classes) if len(classes) > 1 else _DEFAULT_KEYFRAMES)
    seeds = request.seeds(-(-keyframes // len(classes)))
    z = torch.cat([sampler.latents(seed, count, request.truncation) for seed, count in seeds])
    indices = torch.arange(keyframes)
    return z[indices // len(classes)], classes[indices % len(classes)], seeds[0][0]
