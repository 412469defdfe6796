"""Default number of workers for this machine or container."""

from ganctl.processes import available_cores

MAX_WORKERS = 8  # the front end needs about half as much CPU time again


def default_workers() -> int:
    """One worker for each core that this process may use, at most eight; each worker runs one inference thread."""
    return min(MAX_WORKERS, available_cores())
