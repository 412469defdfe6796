"""Ranks find each other and nobody else, whatever earlier starts have left in the store that they share."""

import datetime
import threading
import time

import pytest
from torch._C._distributed_c10d import HashStore
from torch.distributed.distributed_c10d import Store

from training.meeting import agree_on_word

PATIENCE = datetime.timedelta(seconds=20)


def meet(store: Store, size: int, *, first_comes_late: bool = False) -> set[str]:
    """The words that ranks of one start come away with."""
    words: list[str] = []

    def come(rank: int) -> None:
        if rank == 0 and first_comes_late:
            time.sleep(0.1)
        words.append(agree_on_word(store, rank=rank, size=size, patience=PATIENCE))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(words) == size
    return set(words)


@pytest.mark.parametrize("first_comes_late", [False, True])
def test_all_ranks_of_a_start_share_a_word_that_no_earlier_start_had(first_comes_late: bool) -> None:
    store = HashStore()
    starts = [meet(store, 3, first_comes_late=first_comes_late) for _ in range(3)]
    assert [len(words) for words in starts] == [1, 1, 1]
    assert len(set.union(*starts)) == 3


def test_the_questions_of_ranks_that_are_dead_mislead_nobody() -> None:
    store = HashStore()
    for rank in (1, 2):
        store.set(f"question/{rank}", "of a rank that was killed before it heard")
    assert len(meet(store, 3, first_comes_late=True)) == 1


def test_a_rank_that_never_comes_is_named() -> None:
    with pytest.raises(TimeoutError, match="rank 1, 2 of 3 did not come"):
        agree_on_word(HashStore(), rank=0, size=3, patience=datetime.timedelta(seconds=0.1))
