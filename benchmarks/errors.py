"""The errors that benchmarks tell their users, by `ganctl bench` or as `python -m benchmarks.…`."""

import click


class BenchError(click.ClickException):
    """A benchmark that cannot be run, or went wrong; the message says why and what to do."""

    exit_code = 1


class BenchUsageError(BenchError):
    """What was asked for makes no sense; names the flag or the file."""

    exit_code = 2
