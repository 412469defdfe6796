"""Binds a server's ports before its processes start, whose own errors would come late and name no flag."""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from ganctl.serving.errors import ServerError


@contextlib.contextmanager
def bind_ports(
    host: str, port: int, names: Sequence[str], metrics_host: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """Yields a bound socket for each name: the first one on the IP address `host`, the others on loopback.

    The system gives a bound port to no program that requests any free port. A program that sets SO_REUSEADDR, too, can
    still listen on it.

    Args:
        host: an IP address of this machine.
        port: the first of the ports, which are in a row; 0 chooses free ports.
        names: what each port is for.
        metrics_host: the IP address of the port for `metrics`.

    Raises:
        ServerError: an address or port cannot be used; the message names it and the reason.
    """
    for flag, given in (("--host", host), ("--metrics-host", metrics_host)):
        if ":" in given and not _has_ipv6():
            raise ServerError(f"{flag}: found the address {given}, but this machine has no IPv6. Give an IPv4 address.")
    bound = []
    with contextlib.ExitStack() as stack:
        for i, name in enumerate(names):
            flag, address = ("--metrics-host", metrics_host) if name == "metrics" else ("--host", "127.0.0.1")
            address, number = host if i == 0 else address, port + i if port else 0
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = stack.enter_context(socket.socket(family))
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also allows a port in TIME_WAIT
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` includes IPv4 addresses
                listener.bind(socket.getaddrinfo(address, number, family, socket.SOCK_STREAM)[0][4])
            except OSError as error:
                found = f"--port {port}: port {number} on {address}, for {name}"
                raise _port_error(error, address, found, len(names), flag) from error
            bound.append(listener)
        yield bound


def _has_ipv6() -> bool:
    """Returns whether an interface has an IPv6 address; without one Java has no IPv6, although a socket may bind."""
    addresses = Path("/proc/net/if_inet6")
    return addresses.exists() and bool(addresses.read_bytes())


def _port_error(error: OSError, address: str, port: str, count: int, flag: str) -> ServerError:
    """Returns the error for a port that cannot be bound; `port` describes it, as one of `count` ports."""
    if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL):  # EINVAL: fe80::1 without its network interface
        shown = ipaddress.ip_address(address).compressed  # ::1:8080, which the system writes ::0.1.128.128
        return ServerError(
            f"{flag}: found the address {shown}, on which this machine cannot listen. Give one that `ip address` lists,"
            " or 0.0.0.0 for all of them. A port goes into --port."
        )
    hints = {errno.EADDRINUSE: " `ss -ltnp` names its user.", errno.EACCES: " Ports below 1024 need root."}
    return ServerError(
        f"{port}, cannot be used ({error}).{hints.get(error.errno or 0, '')}"
        f" Give another --port ({count} in a row are used), or 0 for free ones."
    )
