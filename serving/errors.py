"""The errors of the serving side: each is meant for a person, and knows the exit code that tells its kind."""

from collections.abc import Mapping
from typing import Any


class ServingError(Exception):
    """What this package raises for its users; `exit_code` is the status that `ganctl` ends with."""

    exit_code = 1


class SettingError(ServingError):
    """A variable of the environment has a value that it cannot have."""

    exit_code = 3


class PackageError(ServingError):
    """An export or an archive is missing, damaged, or not what it says it is."""

    exit_code = 4


class ServerError(ServingError):
    """TorchServe cannot be started, did not become ready, or ended by itself."""

    exit_code = 6


class HostError(ServingError):
    """`--host` is given something else than a host."""

    exit_code = 2


class DeployError(ServingError):
    """A new version is not fit to be served; the old one is served as before."""

    exit_code = 5


class RemoteError(ServingError):
    """A server could not be reached, or refused a request.

    `status` is the HTTP status (None where no answer came), `problem` the RFC 9457 object of the answer, if it had one.
    """

    exit_code = 6

    def __init__(self, message: str, status: int | None = None, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})
