"""Latents and labels from a seed, equal on every machine and NumPy version.

NumPy guarantees that the raw words of a bit generator never change, but not the output of its distributions. Therefore
this module takes only raw words, from Philox (a counter-based generator) keyed by the seed and a stream number. It
implements the Box-Muller transform itself.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**53 - 1  # the largest integer that every JSON parser keeps exact

_Z_STREAM, _LABEL_STREAM = 0, 1
_UNIT = 2.0**-53

# One generator, re-keyed for each stream: a new one takes ten times longer than the latents of one image.
_philox = np.random.Philox(key=0)
_philox_lock = threading.Lock()
_key = np.zeros(2, np.uint64)
_state: Any = {
    "bit_generator": "Philox",
    "state": {"counter": np.zeros(4, np.uint64), "key": _key},
    "buffer": np.zeros(4, np.uint64),
    "buffer_pos": 4,  # the buffer is empty
    "has_uint32": 0,
    "uinteger": 0,
}


def latents(seed: int, count: int, dim: int) -> NDArray[np.float32]:
    """Standard normal latents, float32 [count, dim]. Row i depends only on (seed, i, dim), never on `count`."""
    return batched_latents([(seed, count)], dim)


def batched_latents(draws: Sequence[tuple[int, int]], dim: int) -> NDArray[np.float32]:
    """Concatenated `latents(seed, count, dim)` of each (seed, count) in `draws`, computed in one pass.

    Returns:
        float32 [sum of counts, dim].
    """
    width = dim + dim % 2  # Box-Muller maps two words to two normals, so a row takes an even number of words
    parts = [_words(seed, _Z_STREAM, count * width) for seed, count in draws]
    words = parts[0] if len(parts) == 1 else np.concatenate(parts)
    uniform = (words.reshape(-1, width) >> np.uint64(11)) * _UNIT  # [0, 1)
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, : width // 2]))
    angle = (2.0 * np.pi) * uniform[:, width // 2 :]
    normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    return normal[:, :dim].astype(np.float32)


def draw_labels(seed: int, count: int, classes: int) -> NDArray[np.int64]:
    """Labels drawn uniformly from 0 to classes − 1, int64 [count]. Label i depends only on (seed, i, classes).

    Labels have a random stream of their own, so a request that names its label gets the same latent.
    """
    return np.array(label_tuple(seed, count, classes), np.int64)


def label_tuple(seed: int, count: int, classes: int) -> tuple[int, ...]:
    """`draw_labels` as a tuple of Python integers, which is faster for a single label."""
    words: list[int] = _words(seed, _LABEL_STREAM, count).tolist()
    return tuple([int((word >> 11) * _UNIT * classes) for word in words])


def _words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """The first `count` raw words of a stream, uint64 [count]."""
    assert 0 <= seed <= MAX_SEED, f"seed: found {seed}, expected 0 to {MAX_SEED}"
    with _philox_lock:
        _key[:] = seed, stream
        _philox.state = _state
        return np.asarray(_philox.random_raw(count), np.uint64)
