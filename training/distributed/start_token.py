"""Lets the ranks of one start agree on a token, so that leftovers of earlier starts in the store cannot mislead them.

torchrun's agent keeps one store for all restarts (pytorch#135712). Addresses that killed ranks wrote are still there
after a restart, and a rank that reads one waits for a dead process. So the ranks first agree on a random start token,
and then use it as the prefix of all further keys.
"""

import datetime
import secrets
import time

from torch.distributed.distributed_c10d import Store

_POLL_INTERVAL = 0.02  # seconds


def agree_on_start_token(store: Store, *, rank: int, size: int, timeout: datetime.timedelta) -> str:
    """Returns a random token that is the same on all ranks of this start and new for each start.

    Every other rank writes a nonce. Rank 0 answers each nonce with the start token, and returns after every rank's ack.
    Rank 0 also answers stale nonces of earlier starts, which is harmless.

    Args:
        store: shared by all ranks.
        rank: this process's rank.
        size: number of ranks.
        timeout: the longest wait for the other ranks.

    Raises:
        TimeoutError: a rank did not join within `timeout`.
    """
    if rank > 0:
        nonce = secrets.token_hex(8)
        store.set(f"nonce/{rank}", nonce)
        store.wait([f"start_token/{nonce}"], timeout)
        token = store.get(f"start_token/{nonce}").decode()
        store.set(f"ack/{token}/{rank}", "")
        return token
    token = secrets.token_hex(8)
    missing = set(range(1, size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        for other in list(missing):
            if store.check([f"ack/{token}/{other}"]):
                missing.remove(other)
            elif store.check([f"nonce/{other}"]):
                store.set(f"start_token/{store.get(f'nonce/{other}').decode()}", token)
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank {', '.join(map(str, sorted(missing)))} of {size} did not join within {timeout}")
        time.sleep(_POLL_INTERVAL)
    return token
