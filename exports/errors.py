"""The errors of exporting: a faulty export (4), and one that does not draw what the checkpoint draws (5)."""


class ExportError(ValueError):
    """An export that is absent, damaged or cannot be written where it was asked for."""

    exit_code = 4


class ParityError(ExportError):
    """An artefact differs from the eager generator by more than rounding; nothing was kept."""

    exit_code = 5
