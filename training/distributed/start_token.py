"""Where the ranks of one start find each other, whatever an earlier start has left in the store.

torchrun's agent keeps one store for all its restarts (pytorch#135712): the addresses that killed ranks wrote there are
still in it when the next ones come, and whoever reads them waits for the dead. So the ranks first agree on a word that
no earlier start can know; what they tell each other afterwards stands under it.
"""

import datetime
import secrets
import time

from torch.distributed.distributed_c10d import Store

_LOOK_EVERY = 0.02  # seconds


def agree_on_start_token(store: Store, *, rank: int, size: int, patience: datetime.timedelta) -> str:
    """A word that all ranks of this start share, and none of an earlier one does.

    The first rank chooses it and gives it to whoever asks with a question of his own; questions that earlier starts
    left are answered, too, but nobody is there to hear it. It goes on once every rank has said that it knows the word.

    Raises:
        TimeoutError: a rank has not come within `patience`.
    """
    if rank > 0:
        question = secrets.token_hex(8)
        store.set(f"question/{rank}", question)
        store.wait([f"answer/{question}"], patience)
        word = store.get(f"answer/{question}").decode()
        store.set(f"heard/{word}/{rank}", "")
        return word
    word = secrets.token_hex(8)
    missing = set(range(1, size))
    deadline = time.monotonic() + patience.total_seconds()
    while missing:
        for other in list(missing):
            if store.check([f"heard/{word}/{other}"]):
                missing.remove(other)
            elif store.check([f"question/{other}"]):
                store.set(f"answer/{store.get(f'question/{other}').decode()}", word)
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank {', '.join(map(str, sorted(missing)))} of {size} did not come within {patience}")
        time.sleep(_LOOK_EVERY)
    return word
