"""IP addresses: resolving `--host`, writing addresses in URLs, and detecting loopback."""

import ipaddress
import re
import socket

from ganctl.serving.errors import HostError, ServerError

_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)?(?P<address>\[.*?\]|[^/:]*)(?::(?P<port>\d*))?(?P<path>/.*)?", re.IGNORECASE
)
_REMEDY = "Give an address of this machine, such as 127.0.0.1 (this machine only) or 0.0.0.0 (every network)."


def resolve(host: str, flag: str = "--host") -> str:
    """Resolve a host to an IP address; a name gives its first address, IPv4 before IPv6.

    Args:
        host: the value of the flag.
        flag: the flag that errors name.

    Raises:
        HostError: the value is not a host.
        ServerError: the name has no address.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (error := _syntax_error(bare, flag)) is not None:
        raise HostError(f"{flag} {host.strip() or repr(host)}: {error}")
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServerError(f"{flag} {host}: found no address for this name ({reason}). {_REMEDY}") from error
    addresses = sorted((str(address[0]) for *_, address in found), key=lambda address: ":" in address)
    return addresses[0]


def _syntax_error(host: str, flag: str) -> str | None:
    """The message for a value that is not a host; None if it may be one."""
    if not host.strip() or host.startswith(("unix:", "/", "./", "../")):
        return f"expected an address, as the server listens on TCP only. {_REMEDY}"
    if host.isascii() and host.isdigit():  # getaddrinfo takes 8080 for 0.0.31.144
        host = f":{host}"
    url = _URL.fullmatch(host)
    if url is None or not (url["scheme"] or url["port"] or url["path"] or host == "*"):
        return None
    found = "a URL" if url["scheme"] else "a port" if url["port"] else repr(host)
    address = url["address"] if url["address"] not in ("", "*") else "0.0.0.0"
    port = f" --port {url['port']}" if url["port"] else ""
    return f"found {found}, expected an address. Give {flag} {address}{port}."


def is_loopback(address: str) -> bool:
    """Return whether an IP address can be reached only from this machine."""
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def connect_address(listen_address: str) -> str:
    """The address at which to reach a server of this machine: loopback if it listens on all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen_address, listen_address)


def url_host(address: str) -> str:
    """An IP address as the host of a URL: IPv6 in brackets."""
    return f"[{address.replace('%', '%25')}]" if ":" in address else address


def resolves_to_loopback(host: str) -> bool:
    """Return whether the host of a URL is this machine's loopback.

    True for a loopback address, for `localhost`, and for a name without a dot that resolves only to loopback.
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    is_short_name = "." not in name and ":" not in name and not name.isdecimal()
    flags = 0 if is_short_name else socket.AI_NUMERICHOST  # no DNS look-up of full domain names
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):  # a domain name, or an unknown one, which a proxy may be able to resolve
        return False
    return all(is_loopback(connect_address(str(address[0]))) for *_, address in found)
