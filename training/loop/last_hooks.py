"""Calls the hooks of the end of a run and of its error, where a callback that fails must not disturb the others."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ganctl.common.redaction import redact
from ganctl.training.callbacks.base import Callback, Run

_log = logging.getLogger(__name__)


def end_callbacks(callbacks: Sequence[Callback], run: Run, reason: str, scores: Mapping[str, Any]) -> None:
    """Calls every `on_end`: the run is complete, and each callback gets its scores. Then raises the first error."""
    errors: list[Exception] = []
    for callback in callbacks:
        try:
            callback.on_end(run, reason, scores)
        except Exception as error:  # of any kind: the first one is raised below
            if errors:
                _warn(callback, "its end failed as well", error)
            errors.append(error)
    if errors:
        raise errors[0]


def report_error(callbacks: Sequence[Callback], run: Run, error: Exception) -> None:
    """Calls every `on_exception`; errors in it are logged, since `error` is the one that the caller raises."""
    for callback in callbacks:
        try:
            callback.on_exception(run, error)
        except Exception as failure:  # of any kind, such as a full disk, which may be the reason of `error`
            _warn(callback, "its report of the error failed", failure)


def _warn(callback: Callback, what: str, error: Exception) -> None:
    _log.warning("%s: %s: %s", callback.key, what, redact(f"{type(error).__name__}: {error}"))
