"""The order of a walk: its stops are the ordered images, and what lies between them is drawn as well."""

import numpy as np
import torch
from torch import Tensor

from ganctl.training.images.interpolation import walk_labels, walk_latents
from ganctl.training.images.source import GeneratorSource
from ganctl.training.sampling.request import Film, OrderError, SampleRequest
from ganctl.training.sampling.samplers import LocalSampler

_PACE = 24  # frames from stop to stop
_LONGEST = 1200  # frames of a walk whose length nobody has named
_STOPS = 8  # of a walk for which only one image is ordered


def draw_walk(order: SampleRequest, sampler: LocalSampler, frames: int | None) -> Film:
    """A closed walk through the ordered images.

    A list of digits (or all classes, or a text) keeps one latent: the walk goes from digit to digit in one handwriting,
    and with each repeat of the list in another one. `frames` counts all of the film; None: 24 from stop to stop.

    Raises:
        OrderError: there is nothing to walk between, too few frames, or a source that knows nothing between labels.
    """
    sampler.check(order)
    source = sampler.source
    names = range(sampler.count_classes()) if order.per_class else order.names
    turn = torch.tensor([sampler.number(name) for name in names], dtype=torch.int64)
    if not len(turn):
        z, labels, seed = _free_stops(order, sampler)
    else:
        z, labels, seed = _stops_in_turn(order, sampler, turn)
    if (z == z[0]).all() and (labels == labels[0]).all():
        raise OrderError(
            "--out: a film walks from image to image, and all that are ordered are the same; name different digits, or"
            " a --count (2 or more), or a --truncation above 0"
        )
    frames = frames or max(len(z), min(_PACE * len(z), _LONGEST))
    if frames < len(z):
        raise OrderError(f"--frames {frames}: the walk passes {len(z)} images; expected as many frames or more")
    path = walk_latents(z, frames)
    if not source.conditional or (labels == labels.roll(-1)).all():
        images = source.draw(path, labels[:1].expand(frames))
    elif isinstance(source, GeneratorSource) and source.mixes_labels:
        images = source.draw_mixed(path, walk_labels(labels, sampler.count_classes(), frames))
    else:
        raise OrderError(
            f"{order.flag or '--out'}: a walk from one digit to another needs a run or a checkpoint whose generator has"
            " an `embedding`: an exported file takes whole labels, and there is nothing between them. Name the run, or"
            " one --label alone to walk through its handwritings"
        )
    return Film(images.permute(0, 2, 3, 1).numpy(), seed, len(z))


def _free_stops(order: SampleRequest, sampler: LocalSampler) -> tuple[Tensor, Tensor, int]:
    """Stops with a latent each, and the labels that the seed decides."""
    requests = order.requests(order.count or _STOPS)
    z = torch.cat([sampler.latents(seed, draws, order.truncation) for seed, draws in requests])
    labels = torch.from_numpy(np.concatenate([sampler.labels(seed, draws) for seed, draws in requests]))
    return z, labels, requests[0][0]


def _stops_in_turn(order: SampleRequest, sampler: LocalSampler, turn: Tensor) -> tuple[Tensor, Tensor, int]:
    """Stops that share a latent for each turn through the classes."""
    if order.text or order.per_class:
        stops = (order.count or order.per_class or 1) * len(turn)
    else:
        stops = order.count or (len(turn) if len(turn) > 1 else _STOPS)
    requests = order.requests(-(-stops // len(turn)))
    z = torch.cat([sampler.latents(seed, draws, order.truncation) for seed, draws in requests])
    places = torch.arange(stops)
    return z[places // len(turn)], turn[places % len(turn)], requests[0][0]
