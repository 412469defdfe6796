"""IP addresses: the meaning of `--host`, their spelling in a URL, and those that stay on this machine."""

import ipaddress
import re
import socket

from ganctl.serving.errors import HostError, ServerError

_URL = re.compile(r"(?!unix:)[a-z][a-z0-9+.-]*://(\[.*?\]|[^/:]*)(:\d+)?(/.*)?", re.IGNORECASE)
_REMEDY = "Give an address of this machine, such as 127.0.0.1 (for this machine alone) or 0.0.0.0 (for every network)."


def resolve(host: str) -> str:
    """Finds the IP address that `--host` means: itself, or a name's first one, IPv4 before IPv6.

    Raises:
        HostError: this is not a host.
        ServerError: no address is known for this name.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (fault := _fault(bare)) is not None:
        raise HostError(f"--host {host.strip() or repr(host)}: {fault}")
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServerError(f"--host {host}: found no address for this name ({reason}). {_REMEDY}") from error
    addresses = sorted((str(address[0]) for *_, address in found), key=lambda address: ":" in address)
    return addresses[0]


def _fault(host: str) -> str | None:
    """Explains why `host` cannot be one; None where it can."""
    if not host.strip():
        return f"found an empty text, expected an address. {_REMEDY}"
    if (url := _URL.fullmatch(host)) is not None:
        return f"found a URL, expected an address. Give --host {url[1]}{_port_flag(url[2])}."
    if host.startswith("unix:") or "/" in host:
        return f"found a path; a server of ours listens on TCP, not on a Unix socket. {_REMEDY}"
    if (pair := re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)", host)) is not None:
        return f"found a port after the address. Give --host {pair[1] or '0.0.0.0'}{_port_flag(pair[2])}."
    if host.isascii() and host.isdigit():  # getaddrinfo takes 8080 for 0.0.31.144
        return f"found a number, expected an address. Give --host 0.0.0.0 --port {host}."
    if host == "*":
        return "found no address; every network is 0.0.0.0, with IPv6 ::. Give --host 0.0.0.0."
    return None


def _port_flag(port: str | None) -> str:
    return f" --port {port[1:]}" if port and port != ":" else ""


def is_loopback(address: str) -> bool:
    """Whether an IP address reaches this machine alone."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def reachable(address: str) -> str:
    """The address to ask a server at that listens on `address`: loopback where that is every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


def in_url(address: str) -> str:
    """The spelling of an IP address in a URL: IPv6 in brackets."""
    return f"[{address.replace('%', '%25')}]" if ":" in address else address


def leads_to_loopback(host: str) -> bool:
    """Whether the host of a URL is this machine's loopback: an address, `localhost`, or a name without a dot that has
    no other address."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    is_a_short_name = "." not in name and ":" not in name and not name.isdecimal()
    flags = 0 if is_a_short_name else socket.AI_NUMERICHOST  # no look-up of names of the internet
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):  # a name, or an unknown one: only a proxy may know it
        return False
    return all(is_loopback(reachable(str(address[0]))) for *_, address in found)
