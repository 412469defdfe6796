"""The ports that a server takes, tried before Java is started: its own message would come late and name no flag."""

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
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, kw_only=True, repr=False, compare=False)

    @classmethod
    def following(cls, port: int) -> "Ports":
        return cls(*range(port, port + 5))

    def release(self) -> None:
        """Reserves the ports no longer, once the server listens on them or never will."""
        self._held.close()


def free_ports(host: str, port: int) -> Ports:
    """The ports to use, each tried, on the IP address `host` and on loopback. Raises ServerError naming the one that
    cannot be used, and why.

    With `port` 0 they are reserved until `release`: the system gives them to nobody who asks for any port, in the
    seconds before the server listens on them.
    """
    if port == 0:
        held = contextlib.ExitStack()
        with contextlib.ExitStack() as until_all_are_found:
            until_all_are_found.push(held)
            numbers = [held.enter_context(_reserved(host if i == 0 else _LOOPBACK, 0, port)) for i in range(5)]
            until_all_are_found.pop_all()
        return Ports(*numbers, _held=held)
    ports = Ports.following(port)
    for name in ("inference", "management", "metrics", "grpc", "grpc_management"):
        with _reserved(host if name == "inference" else _LOOPBACK, getattr(ports, name), port, name):
            pass
    return ports


@contextlib.contextmanager
def _reserved(address: str, number: int, port: int, name: str = "inference") -> Iterator[int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and not _has_ipv6():
        raise ServerError(f"--host: found the address {address}, but this machine has no IPv6. Give an IPv4 address.")
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.socket(family))
            # As Java does: a port just left is free, and one that is bound, not listened on, can be listened on by it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` is every IPv4 address, too
            listener.bind(socket.getaddrinfo(address, number, family, socket.SOCK_STREAM)[0][4])
        except (OSError, OverflowError) as error:
            raise _refusal(error, address, number, port, name) from error
        yield listener.getsockname()[1]


def _has_ipv6() -> bool:
    """Whether a network interface has an address of IPv6: else Java has none, either, where a socket may still bind."""
    addresses = Path("/proc/net/if_inet6")
    return bool(addresses.read_bytes()) if addresses.exists() else sys.platform != "linux"


def _compressed(address: str) -> str:
    """The usual spelling of an address: the system writes ::1:8080 as ::0.1.128.128."""
    try:
        return ipaddress.ip_address(address).compressed
    except ValueError:  # with a zone (fe80::1%eth0)
        return address


def _refusal(error: OSError | OverflowError, address: str, number: int, port: int, name: str) -> ServerError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRNOTAVAIL:
        way = "Give one that `ip address` lists, or 0.0.0.0 for every one."
        way += " A port goes into --port." if ":" in address else ""
        return ServerError(
            f"--host: found the address {_compressed(address)}, which no network interface of this machine has. {way}"
        )
    if code == errno.EINVAL and address.startswith("fe80:"):
        return ServerError(
            f"--host: found the link-local address {address}, expected one that does not depend on a network interface."
            " Give another address of this machine."
        )
    what = f"--port {port}: port {number} on {address}, for {name.replace('_', ' ')}, cannot be used ({error})."
    if code == errno.EADDRINUSE:
        return ServerError(
            f"{what} `ss -ltnp` tells who holds it; give another --port (five in a row are taken), or 0 for free ones."
        )
    if code == errno.EACCES:
        return ServerError(f"{what} Ports below 1024 are for root: give another --port, or 0 for free ones.")
    return ServerError(f"{what} Give another --port, or 0 for free ones.")
