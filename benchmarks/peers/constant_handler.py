"""Handler of the ceiling: constant bytes for every request, to measure TorchServe alone."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_png: bytes | None = None


def handle(data: Sequence[Any] | None, context: Any) -> list[bytes] | None:
    """TorchServe's entry point: reads the file once and returns its bytes for each request of a batch."""
    global _png
    if _png is None:
        _png = (Path(context.system_properties["model_dir"]) / "digit.png").read_bytes()
        logging.getLogger().setLevel(logging.WARNING)  # as our handler does: the worker would log every batch
    return None if data is None else [_png] * len(data)
