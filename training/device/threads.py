"""The number of threads of CPU computations."""

import os

import torch

from ganctl.processes import available_cores, core_numbers


def limit_threads() -> None:
    """Lowers the number of torch's threads to the CPU quota of the container, unless OMP_NUM_THREADS sets it.

    torch itself follows the affinity mask only.
    """
    cores = available_cores()
    if "OMP_NUM_THREADS" not in os.environ and cores < min(len(core_numbers()), torch.get_num_threads()):
        torch.set_num_threads(cores)
