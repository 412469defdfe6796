"""The ports that a server takes, tried before Java is started: its own message would come late and name no flag."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import ServerError


@dataclass(frozen=True)
class Ports:
    """The five ports of a TorchServe."""

    inference: int
    management: int
    metrics: int
    grpc: int
    grpc_management: int
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, kw_only=True, repr=False, compare=False)

    @classmethod
    def following(cls, port: int) -> "Ports":
        return cls(*range(port, port + 5))

    def release(self) -> None:
        """Reserves the ports no longer, once the server listens on them or never will."""
        self._held.close()


def free_ports(host: str, port: int) -> Ports:
    """The ports to use, each tried. Raises ServerError naming the one that is taken.

    With `port` 0 they are reserved until `release`: the system gives them to nobody who asks for any port, in the
    seconds before the server listens on them.
    """
    if port == 0:
        held = contextlib.ExitStack()
        with contextlib.ExitStack() as until_all_are_found:
            until_all_are_found.push(held)
            numbers = [held.enter_context(_bound(host if i == 0 else "127.0.0.1", 0)) for i in range(5)]
            until_all_are_found.pop_all()
        return Ports(*numbers, _held=held)
    ports = Ports.following(port)
    for name in ("inference", "management", "metrics", "grpc", "grpc_management"):
        number = getattr(ports, name)
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
        # As Java does: a port just left is free, and one that is bound and not listened on can be listened on by it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        yield listener.getsockname()[1]
