"""The error that benchmarks tell their users."""


class BenchError(Exception):
    """A benchmark that cannot be run, or went wrong; the message says why and what to do."""

    exit_code = 1


class BenchUsageError(BenchError):
    """What was asked for makes no sense; names the flag."""

    exit_code = 2
