"""Errors of `ganctl bench` and `python -m ganctl.benchmarks.…`, with exit codes."""

import click


class BenchError(click.ClickException):
    """A benchmark failed or cannot run here; the message gives the reason and the remedy."""

    exit_code = 1


class BenchUsageError(BenchError):
    """Invalid input; the message names the flag or the file."""

    exit_code = 2
