"""Ranks find each other and nobody else, whatever earlier starts have left in the store that they share."""

import datetime
import threading

import pytest
from torch._C._distributed_c10d import HashStore

from ganctl.training.distributed.start_token import agree_on_start_token
from tests.waiting import PATIENCE


class Watched(HashStore):
    """Tells when something is put into it."""

    put = threading.Semaphore(0)

    def set(self, key: str, value: str) -> None:
        super().set(key, value)
        self.put.release()


def meet(store: Watched, size: int, *, first_comes_late: bool = False) -> set[str]:
    """The words that ranks of one start come away with."""
    words: list[str] = []
    store.put = threading.Semaphore(0)

    def come(rank: int) -> None:
        for _ in range(size - 1 if rank == 0 and first_comes_late else 0):
            assert store.put.acquire(timeout=PATIENCE), "the other ranks have asked"
        words.append(agree_on_start_token(store, rank=rank, size=size, timeout=datetime.timedelta(seconds=PATIENCE)))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(words) == size
    return set(words)


@pytest.mark.parametrize("first_comes_late", [False, True])
def test_all_ranks_of_a_start_share_a_word_that_no_earlier_start_had(first_comes_late: bool) -> None:
    store = Watched()
    starts = [meet(store, 3, first_comes_late=first_comes_late) for _ in range(3)]
    assert [len(words) for words in starts] == [1, 1, 1]
    assert len(set.union(*starts)) == 3


def test_the_questions_of_ranks_that_are_dead_mislead_nobody() -> None:
    store = Watched()
    for rank in (1, 2):
        store.set(f"nonce/{rank}", "of a rank that was killed before it heard")
    assert len(meet(store, 3, first_comes_late=True)) == 1


def test_a_rank_that_never_comes_is_named() -> None:
    with pytest.raises(TimeoutError, match="rank 1, 2 of 3 did not join"):
        agree_on_start_token(HashStore(), rank=0, size=3, timeout=datetime.timedelta(seconds=0.1))
