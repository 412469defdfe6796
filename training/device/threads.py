"""The number of threads of CPU computations."""

import os

import torch

from ganctl.processes import available_cores


def limit_threads() -> None:
    """Lowers the number of torch's threads to the cores that this process may use, unless OMP_NUM_THREADS sets it.

    torch follows the affinity mask, and not the CPU quota of a container.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > (cores := available_cores()):
        torch.set_num_threads(cores)
