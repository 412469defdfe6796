"""Errors of this package with their exit codes; the messages are meant for users."""

from collections.abc import Mapping
from typing import Any


class ServingError(Exception):
    """Base class of all errors of this package; `exit_code` is the exit status of `ganctl`."""

    exit_code = 1


class SettingError(ServingError):
    """An environment variable has an invalid value."""

    exit_code = 3


class PackageError(ServingError):
    """An export or an archive is missing, damaged, or not valid."""

    exit_code = 4


class ServerError(ServingError):
    """TorchServe cannot be started, did not become ready, or has ended by itself."""

    exit_code = 6


class HostError(ServingError):
    """The value of `--host` is not a host."""

    exit_code = 2


class DeployError(ServingError):
    """A new version cannot be served; the old one is still served."""

    exit_code = 5


class RemoteError(ServingError):
    """A server cannot be reached, or has refused a request.

    `status` is the HTTP status; None if no reply came. `problem` is the reply's RFC 9457 object; {} if it has none.
    """

    exit_code = 6

    def __init__(self, message: str, status: int | None = None, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})
