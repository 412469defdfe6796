"""Chooses and checks the server's ports before Java starts, whose own error would come late and name no flag."""

import contextlib
import errno
import ipaddress
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ganctl.serving.errors import ServerError

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """The five ports of a TorchServe."""

    inference: int
    management: int
    metrics: int
    grpc: int
    grpc_management: int
    _reservations: contextlib.ExitStack = field(
        default_factory=contextlib.ExitStack, kw_only=True, repr=False, compare=False
    )

    @classmethod
    def consecutive(cls, port: int) -> "Ports":
        """Five ports in a row, from `port` on."""
        return cls(*range(port, port + 5))

    def release(self) -> None:
        """Ends the reservations of ports that `free_ports` chose."""
        self._reservations.close()


def free_ports(host: str, port: int) -> Ports:
    """Returns five ports that can be used now: inference on the IP address `host`, the others on loopback.

    Args:
        host: an IP address of this machine.
        port: the first of five ports in a row. 0 chooses free ports and reserves them until `release`: the system then
            gives them to no other program that requests any free port, in the seconds before the server listens.

    Raises:
        ServerError: an address or port cannot be used; the message names it and the reason.
    """
    if port == 0:
        reservations = contextlib.ExitStack()
        with contextlib.ExitStack() as on_error:
            on_error.push(reservations)
            numbers = [reservations.enter_context(_reserve(host if i == 0 else _LOOPBACK, 0, port)) for i in range(5)]
            on_error.pop_all()
        return Ports(*numbers, _reservations=reservations)
    ports = Ports.consecutive(port)
    for name in ("inference", "management", "metrics", "grpc", "grpc_management"):
        with _reserve(host if name == "inference" else _LOOPBACK, getattr(ports, name), port, name):
            pass
    return ports


@contextlib.contextmanager
def _reserve(address: str, number: int, port: int, name: str = "inference") -> Iterator[int]:
    """Binds a port without listening, and yields its number; `port` and `name` are for the error message."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and not _has_ipv6():
        raise ServerError(f"--host: found the address {address}, but this machine has no IPv6. Give an IPv4 address.")
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.socket(family))
            # SO_REUSEADDR, as Java sets it, allows a port in TIME_WAIT and lets Java listen on the bound port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` includes all IPv4 addresses
            listener.bind(socket.getaddrinfo(address, number, family, socket.SOCK_STREAM)[0][4])
        except (OSError, OverflowError) as error:
            raise _port_error(error, address, number, port, name) from error
        yield listener.getsockname()[1]


def _has_ipv6() -> bool:
    """Returns whether an interface has an IPv6 address; without one Java has no IPv6, although a socket may bind."""
    addresses = Path("/proc/net/if_inet6")
    return bool(addresses.read_bytes()) if addresses.exists() else sys.platform != "linux"


def _compressed(address: str) -> str:
    """Returns the usual spelling of an address: the system writes ::1:8080 as ::0.1.128.128."""
    try:
        return ipaddress.ip_address(address).compressed
    except ValueError:  # with a zone (fe80::1%eth0)
        return address


def _port_error(error: OSError | OverflowError, address: str, number: int, port: int, name: str) -> ServerError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRNOTAVAIL:
        hint = "Give one that `ip address` lists, or 0.0.0.0 for all of them."
        hint += " A port goes into --port." if ":" in address else ""
        return ServerError(
            f"--host: found the address {_compressed(address)}, which no network interface of this machine has. {hint}"
        )
    if code == errno.EINVAL and address.startswith("fe80:"):
        return ServerError(
            f"--host: found the link-local address {address}, expected one that does not depend on a network interface."
            " Give another address of this machine."
        )
    problem = f"--port {port}: port {number} on {address}, for {name.replace('_', ' ')}, cannot be used ({error})."
    if code == errno.EADDRINUSE:
        return ServerError(
            f"{problem} `ss -ltnp` names its user. Give another --port (five in a row are used), or 0 for free ones."
        )
    if code == errno.EACCES:
        return ServerError(f"{problem} Ports below 1024 need root. Give another --port, or 0 for free ones.")
    return ServerError(f"{problem} Give another --port, or 0 for free ones.")
