"""Parts that the reports of all benchmarks share: the machine's description, Markdown tables, the choice of systems."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from ganctl.benchmarks.errors import BenchUsageError

JsonObject = dict[str, Any]
Item = TypeVar("Item")


def machine() -> JsonObject:
    """Returns the device, core count and versions that a result depends on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": device, "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def choose(systems: Mapping[str, Item], names: Sequence[str], option: str) -> list[Item]:
    """Returns the systems with these names, or all if `names` is empty.

    Raises:
        BenchUsageError: a system does not exist; the message starts with the command line option.
    """
    if unknown := [name for name in names if name not in systems]:
        raise BenchUsageError(f"{option}: found {unknown[0]}, expected one of {', '.join(systems)}")
    return [system for name, system in systems.items() if not names or name in names]
