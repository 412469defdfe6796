"""Errors of exports, with the exit codes of the command line: an unusable export (4), a failed check (5)."""


class ExportError(ValueError):
    """An export is absent or damaged, or cannot be written to its folder."""

    exit_code = 4


class ParityError(ExportError):
    """An exported file differs from the eager generator by more than rounding; nothing was kept."""

    exit_code = 5


class GateError(ExportError):
    """A small form of the generator loses too much quality; nothing was kept."""

    exit_code = 5
