"""Reads a process's rank from the environment variables that torchrun or another launcher sets.

Kubeflow's PyTorchJob and scripts for SLURM or MPI start the processes themselves and set RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT. A process trains alone if WORLD_SIZE is not set, or if it is 1 outside torchrun.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ganctl.training.errors import ConfigError


@dataclass(frozen=True)
class RankEnvironment:
    """The rank variables of one process."""

    rank: int
    size: int
    address: str  # host:port on which rank 0 listens; empty for one rank
    torchrun: bool  # whether torchrun started the process
    local_rank: int | None  # among the ranks of this machine; None if the launcher did not set it
    restarts: int  # how often torchrun restarted the ranks


def read_rank_environment(variables: Mapping[str, str]) -> RankEnvironment | None:
    """Returns the rank variables of this process; None if it trains alone.

    Args:
        variables: environment variables by name.

    Raises:
        ConfigError: variables are missing or have invalid values; the error names all of them.
    """
    if not variables.get("WORLD_SIZE", "").strip():
        return None
    errors: list[str] = []

    def number(name: str, low: int, high: int | None = None, *, hint: str, optional: bool = False) -> int | None:
        text = variables.get(name, "").strip()
        if not text and optional:
            return None
        if text.isascii() and text.isdigit() and low <= int(text) and (high is None or int(text) <= high):
            return int(text)
        expected = f"a number from {low}" + ("" if high is None else f" to {high}")
        errors.append(f"{name}{f' = {text!r}' if text else ' is not set'}: expected {expected}, {hint}.")
        return None

    torchrun = "TORCHELASTIC_RUN_ID" in variables
    unset = "or unset WORLD_SIZE to train in one process"
    size = number("WORLD_SIZE", 1, hint=f"the number of processes. Correct it, {unset}")
    if size is None:
        raise ConfigError(errors)
    rank_hint = f"a different one in each of the {size} processes (WORLD_SIZE). Set it, {unset}"
    rank = number("RANK", 0, size - 1, hint=rank_hint, optional=size == 1)
    host = variables.get("MASTER_ADDR", "").strip()
    if size > 1:
        if not host:
            errors.append(f"MASTER_ADDR is not set: expected the host of the process with RANK 0. Set it, {unset}.")
        port = number("MASTER_PORT", 1, 65535, hint=f"the port of the process with RANK 0. Set it, {unset}")
    elif not errors and not torchrun:
        return None
    launcher_hint = "set by the launcher of the processes. Correct it, or unset it"
    local_rank = number("LOCAL_RANK", 0, hint=launcher_hint, optional=True)
    restarts = number("TORCHELASTIC_RESTART_COUNT", 0, hint=launcher_hint, optional=True)
    if errors:
        raise ConfigError(errors)
    address = f"{host}:{port}" if size > 1 else ""
    return RankEnvironment(rank or 0, size, address, torchrun, local_rank, restarts or 0)
