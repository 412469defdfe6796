"""The ports that a server takes, tried before Java is started: its own message would come late and name no flag."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import ServerError


@dataclass(frozen=True)
class Ports:
    """The five ports of a TorchServe."""

    inference: int
    management: int
    metrics: int
    grpc: int
    grpc_management: int

    @classmethod
    def following(cls, port: int) -> "Ports":
        return cls(*range(port, port + 5))


def free_ports(host: str, port: int) -> Ports:
    """The ports to use, each tried. Raises ServerError naming the one that is taken."""
    if port == 0:
        with contextlib.ExitStack() as held:
            # All are held until all are found, so that no two are the same.
            return Ports(*(held.enter_context(_bound(host if i == 0 else "127.0.0.1", 0)) for i in range(5)))
    ports = Ports.following(port)
    for name, number in vars(ports).items():
        address = host if name == "inference" else "127.0.0.1"
        try:
            with _bound(address, number):
                pass
        except (OSError, OverflowError) as error:
            raise ServerError(
                f"--port {port}: port {number} on {address}, for {name.replace('_', ' ')}, cannot be used ({error}). "
                f"`ss -ltnp` tells who holds it; give another --port (five in a row are taken), or 0 for free ones."
            ) from error
    return ports


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[int]:
    with socket.socket() as listener:
        if port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: a port just left is free
        listener.bind((host, port))
        yield listener.getsockname()[1]
