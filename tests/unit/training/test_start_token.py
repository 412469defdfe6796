"""The ranks of one start agree on a token, whatever earlier starts have left in their shared store."""

import datetime
import threading

import pytest
from torch._C._distributed_c10d import HashStore

from ganctl.training.distributed.start_token import agree_on_start_token
from tests.waiting import PATIENCE


class CountingStore(HashStore):
    """Releases a semaphore for each value that is written."""

    written = threading.Semaphore(0)

    def set(self, key: str, value: str) -> None:
        super().set(key, value)
        self.written.release()


def start_ranks(store: CountingStore, size: int, *, rank_0_last: bool = False) -> set[str]:
    """Starts all ranks in threads and returns their tokens; with `rank_0_last`, rank 0 starts after all nonces."""
    tokens: list[str] = []
    store.written = threading.Semaphore(0)

    def join(rank: int) -> None:
        for _ in range(size - 1 if rank == 0 and rank_0_last else 0):
            assert store.written.acquire(timeout=PATIENCE), "a rank has not written its nonce"
        timeout = datetime.timedelta(seconds=PATIENCE)
        tokens.append(agree_on_start_token(store, rank=rank, size=size, timeout=timeout))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == size
    return set(tokens)


@pytest.mark.parametrize("rank_0_last", [False, True])
def test_all_ranks_of_a_start_get_the_same_token_and_each_start_a_new_one(rank_0_last: bool) -> None:
    store = CountingStore()
    starts = [start_ranks(store, 3, rank_0_last=rank_0_last) for _ in range(3)]
    assert [len(tokens) for tokens in starts] == [1, 1, 1]
    assert len(set.union(*starts)) == 3


def test_nonces_of_ranks_that_were_killed_are_harmless() -> None:
    store = CountingStore()
    for rank in (1, 2):
        store.set(f"nonce/{rank}", "of a killed rank")
    assert len(start_ranks(store, 3, rank_0_last=True)) == 1


def test_the_error_names_the_ranks_that_do_not_join() -> None:
    with pytest.raises(TimeoutError, match=r"\brank 1, 2 of 3\b"):
        agree_on_start_token(HashStore(), rank=0, size=3, timeout=datetime.timedelta(seconds=0.1))
