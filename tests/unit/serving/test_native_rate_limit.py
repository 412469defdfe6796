"""Token buckets of the native host: each key has its own, and all workers share them."""

from pathlib import Path

import pytest

from ganctl.serving.hosts.native.rate_limit import RateLimit, create_rate_file


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    create_rate_file(tmp_path / "rates")
    return tmp_path / "rates"


def test_a_key_may_send_its_rate_at_once_and_then_waits_for_tokens(file: Path) -> None:
    clock = Clock()
    limit = RateLimit(file, 4.0, clock)
    assert [limit.seconds_to_wait("ann") for _ in range(5)] == [0, 0, 0, 0, 1]
    clock.seconds += 0.5  # two more tokens
    assert [limit.seconds_to_wait("ann") for _ in range(3)] == [0, 0, 1]
    clock.seconds += 3_600
    assert [limit.seconds_to_wait("ann") for _ in range(5)] == [0, 0, 0, 0, 1], "no more than the rate is saved up"


def test_a_rate_below_one_allows_single_requests(file: Path) -> None:
    clock = Clock()
    limit = RateLimit(file, 0.1, clock)
    assert [limit.seconds_to_wait("ann"), limit.seconds_to_wait("ann")] == [0, 10]
    clock.seconds += 10
    assert limit.seconds_to_wait("ann") == 0


def test_keys_have_buckets_of_their_own_and_workers_share_them(file: Path) -> None:
    clock = Clock()
    one, other = RateLimit(file, 1.0, clock), RateLimit(file, 1.0, clock)
    assert one.seconds_to_wait("ann") == 0
    assert other.seconds_to_wait("ann") > 0
    assert other.seconds_to_wait("bob") == 0
