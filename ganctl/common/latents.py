"""From a seed to latents and labels: the one definition, for the server and for whoever draws without a server.

NumPy promises that the raw words of its bit generators never change, but not what its distributions make of them. So
only the words are taken (Philox, a counter-based generator keyed by the seed and the stream's number), and the rest,
Box and Muller's transform, is written out here.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact

_Z_STREAM, _LABEL_STREAM = 0, 1
_UNIT = 2.0**-53

# One generator, re-keyed for every stream: making a new one takes ten times longer than drawing a digit's latents.
_philox = np.random.Philox(key=0)
_philox_lock = threading.Lock()
_key = np.zeros(2, np.uint64)
_state: Any = {
    "bit_generator": "Philox",
    "state": {"counter": np.zeros(4, np.uint64), "key": _key},
    "buffer": np.zeros(4, np.uint64),
    "buffer_pos": 4,  # nothing is left in the buffer
    "has_uint32": 0,
    "uinteger": 0,
}


def latents(seed: int, count: int, dim: int) -> NDArray[np.float32]:
    """Standard normal latents, float32 [count, dim]. Row i depends on (seed, i, dim) only, never on `count`."""
    return latents_of([(seed, count)], dim)


def latents_of(draws: Sequence[tuple[int, int]], dim: int) -> NDArray[np.float32]:
    """The rows of `latents(seed, count, dim)` for each (seed, count) of `draws`, one after the other, in one go."""
    width = dim + dim % 2  # Box and Muller turn two words into two normals, so every row takes an even number
    words = [_words(seed, _Z_STREAM, count * width) for seed, count in draws]
    together = words[0] if len(words) == 1 else np.concatenate(words)
    uniform = (together.reshape(-1, width) >> np.uint64(11)) * _UNIT  # [0, 1)
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, : width // 2]))
    angle = (2.0 * np.pi) * uniform[:, width // 2 :]
    normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    return normal[:, :dim].astype(np.float32)


def draw_labels(seed: int, count: int, classes: int) -> NDArray[np.int64]:
    """Labels drawn uniformly from 0 to classes - 1, int64 [count]; label i depends on (seed, i, classes) only.

    They come from a stream of their own: asking for a label by name does not change the handwriting.
    """
    return np.array(label_tuple(seed, count, classes), np.int64)


def label_tuple(seed: int, count: int, classes: int) -> tuple[int, ...]:
    """The same without an array, whose making takes longer than all else where there is one label."""
    words: list[int] = _words(seed, _LABEL_STREAM, count).tolist()
    return tuple([int((word >> 11) * _UNIT * classes) for word in words])


def _words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    assert 0 <= seed <= MAX_SEED, f"a seed of 0 to {MAX_SEED} is the caller's duty, found {seed}"
    with _philox_lock:
        _key[:] = seed, stream
        _philox.state = _state
        return np.asarray(_philox.random_raw(count), np.uint64)
