"""A seed gives the same latents and labels in every version and in every batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganctl.common.latents import MAX_SEED, batched_latents, draw_labels, latents

seeds = st.integers(0, MAX_SEED)

GOLDEN = [[-1.777709, -0.6932173, 0.9758835], [-0.1194279, -1.1221851, 0.3983585]]
GOLDEN_LABELS = [8, 3, 5, 3, 7, 7, 3, 9, 8, 3, 9, 2]


def test_a_seed_gives_the_latents_and_labels_of_earlier_versions() -> None:
    assert np.allclose(latents(7, 2, 3), GOLDEN, rtol=0, atol=1e-6)
    assert draw_labels(7, 12, 10).tolist() == GOLDEN_LABELS


def test_latents_are_computed_by_box_muller_from_philox_with_the_seed_as_its_key() -> None:
    words = np.random.Philox(key=[7, 0]).random_raw(4).astype(np.uint64)
    uniform = (words >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2 * np.log(1 - uniform[:2]))
    angle = 2 * np.pi * uniform[2:]
    expected = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    assert latents(7, 1, 4)[0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@given(seed=seeds, count=st.integers(1, 300), dim=st.integers(1, 130))
def test_a_row_depends_on_the_seed_and_its_index_not_on_the_count(seed: int, count: int, dim: int) -> None:
    many = latents(seed, 300, dim)
    assert many.shape == (300, dim)
    assert many.dtype == np.float32
    assert np.isfinite(many).all()
    assert np.array_equal(latents(seed, count, dim), many[:count])
    assert np.array_equal(draw_labels(seed, count, 10), draw_labels(seed, 300, 10)[:count])


@given(draws=st.lists(st.tuples(seeds, st.integers(1, 9)), min_size=1, max_size=20), dim=st.integers(1, 65))
def test_the_latents_of_a_batch_are_those_of_its_requests(draws: list[tuple[int, int]], dim: int) -> None:
    alone = [latents(seed, count, dim) for seed, count in draws]
    assert np.array_equal(batched_latents(draws, dim), np.concatenate(alone))


def test_latents_are_standard_normal_with_independent_columns() -> None:
    z = latents(1, 20_000, 6).astype(np.float64)
    assert np.abs(z.mean(axis=0)).max() < 0.03
    assert np.abs(np.cov(z.T) - np.eye(6)).max() < 0.04
    assert abs((np.abs(z) < 1.959964).mean() - 0.95) < 0.003


def test_labels_are_uniform_and_independent_of_the_latents() -> None:
    labels = draw_labels(3, 50_000, 10)
    assert labels.dtype == np.int64
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert np.abs(counts - 5_000).max() < 300
    uniform = (np.random.Philox(key=[3, 0]).random_raw(50_000) >> np.uint64(11)) * 2.0**-53
    assert abs(np.corrcoef(labels, uniform)[0, 1]) < 0.02


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_an_assertion_error(seed: int) -> None:
    with pytest.raises(AssertionError, match="seed"):
        latents(seed, 1, 4)
    assert latents(MAX_SEED, 1, 4).shape == (1, 4)
