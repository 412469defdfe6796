"""The variables that make a process one of several ranks: torchrun's, or RANK and WORLD_SIZE from another launcher.

Kubeflow's PyTorchJob, and scripts for SLURM or MPI, start the processes themselves and set RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT. WORLD_SIZE decides: without it, or where it is 1, a process trains alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ganctl.training.errors import ConfigError


@dataclass(frozen=True)
class RankEnvironment:
    """One process's place, as its launcher has set it."""

    rank: int
    size: int
    address: str  # where the first rank listens
    torchrun: bool
    local_rank: int | None  # among the ranks of this machine; None where the launcher has not set it
    local_size: int | None
    restarts: int


def read_rank_environment(variables: Mapping[str, str]) -> RankEnvironment | None:
    """This process's place among the ranks; None where it trains alone.

    Raises:
        ConfigError: the variables contradict each other, or one has no sound value; each fault names its variable.
    """
    if not variables.get("WORLD_SIZE", "").strip():
        return None
    faults: list[str] = []

    def number(name: str, least: int, most: int | None = None, *, advice: str, optional: bool = False) -> int | None:
        text = variables.get(name, "").strip()
        if not text and optional:
            return None
        if text.isascii() and text.isdigit() and least <= int(text) and (most is None or int(text) <= most):
            return int(text)
        span = f"a number from {least}" + ("" if most is None else f" to {most}")
        faults.append(f"{name}{f' = {text!r}' if text else ' is not set'}: expected {span}, {advice}.")
        return None

    torchrun = "TORCHELASTIC_RUN_ID" in variables
    alone = "or unset WORLD_SIZE to train in one process"
    size = number("WORLD_SIZE", 1, advice=f"the processes that train together; correct it, {alone}")
    if size is None:
        raise ConfigError(faults)
    own = f"another one in each of the {size} processes (WORLD_SIZE); set it, {alone}"
    rank = number("RANK", 0, size - 1, advice=own, optional=size == 1)
    host = variables.get("MASTER_ADDR", "").strip()
    if size > 1:
        if not host:
            faults.append(f"MASTER_ADDR is not set: expected the host of the process of RANK 0; set it, {alone}.")
        port = number("MASTER_PORT", 1, 65535, advice=f"the port of the process of RANK 0; set it, {alone}")
    elif not faults and not torchrun:
        return None
    launcher = "as the launcher of the processes sets it; correct it, or unset it"
    local_rank = number("LOCAL_RANK", 0, advice=launcher, optional=True)
    local_size = number("LOCAL_WORLD_SIZE", 1, size, advice=launcher, optional=True)
    restarts = number("TORCHELASTIC_RESTART_COUNT", 0, advice=launcher, optional=True)
    if faults:
        raise ConfigError(faults)
    address = f"{host}:{port}" if size > 1 else ""
    return RankEnvironment(rank or 0, size, address, torchrun, local_rank, local_size, restarts or 0)
