"""The way of a client to a URL: direct on loopback, else through the proxy and by the certificates of the environment.

httpx is kept from reading the environment itself: a variable that it cannot use breaks clients of every URL, and its
errors do not name the variable.
"""

import importlib.util
import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ganctl.serving.addresses import leads_to_loopback
from ganctl.serving.errors import RemoteError

_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_LOOPBACK_MOUNTS = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}  # httpx: no proxy


def parse_url(text: str) -> httpx.URL:
    """Reads the address of a server. Raises RemoteError where it is none."""
    try:
        url = httpx.URL(text)
        if url.scheme in ("http", "https") and url.host and (url.port or 1) < 1 << 16:
            return url
        reason = ""
    except (httpx.InvalidURL, ValueError) as error:
        reason = f" ({error})"
    raise RemoteError(f"{text}: is no server's address{reason}; expected one such as http://127.0.0.1:8080")


def without_tls() -> ssl.SSLContext:
    """A context for clients of plain HTTP, which reads no certificates: httpx demands one of every client."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def direct(**options: Any) -> httpx.Client:
    """A client of our own servers on this machine, whatever the environment says of proxies and certificates."""
    return httpx.Client(trust_env=False, verify=without_tls(), **options)


@dataclass(frozen=True)
class Route:
    """The options of httpx's clients for a URL.

    proxy: the variable that names the proxy, with its value; empty where none is asked.
    trusted: the variable that names the certificates, with its value, or the package that they come with.
    """

    options: dict[str, Any]
    proxy: str = ""
    trusted: str = ""

    @property
    def passed(self) -> str:
        """A sentence about the proxy, for the message of an error; empty where none is asked."""
        return f" The proxy of {self.proxy} was asked; NO_PROXY can except the server's host." if self.proxy else ""


def route_to(url: httpx.URL) -> Route:
    """Finds the way to a URL. Raises RemoteError where a variable on that way cannot be used, with its name."""
    found = None if leads_to_loopback(url.host) else _find_proxy(url)
    proxy, shown = _read_proxy(*found) if found else (None, "")
    encrypted_proxy = proxy is not None and proxy.url.scheme == "https"
    if url.scheme == "http" and not encrypted_proxy:
        return Route({"trust_env": False, "verify": without_tls(), "proxy": proxy, "mounts": _LOOPBACK_MOUNTS}, shown)
    verify, trusted = _certificates()
    if proxy is not None and encrypted_proxy:
        proxy.ssl_context = verify
    options = {"trust_env": False, "verify": verify, "proxy": proxy, "mounts": _LOOPBACK_MOUNTS}
    return Route(options, shown, trusted)


def _find_proxy(url: httpx.URL) -> tuple[str, str] | None:
    """The name and value of the variable whose proxy is to be asked for a URL; None where there is none."""
    if _is_excepted(url, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""):
        return None
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if value := os.environ.get(variable):
                return variable, value
    return None


def _is_excepted(url: httpx.URL, no_proxy: str) -> bool:
    """Whether NO_PROXY excepts a URL: by a host or its domain (`.example.com`, `*.example.com`), an address, a network
    (10.0.0.0/8), each with or without a port, or by `*`."""
    host, port = url.host.rstrip("."), url.port or (443 if url.scheme == "https" else 80)
    for entry in re.split(r"[,\s]+", no_proxy.strip()):
        with_port = re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry)
        if with_port is not None and int(with_port[2]) != port:
            continue
        name = (with_port[1] if with_port else entry).strip("[]").lower()
        domain = name.removeprefix("*").removeprefix(".")
        if name == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:  # one of them is a name
            continue
    return False


def _read_proxy(name: str, value: str) -> tuple[httpx.Proxy, str]:
    """The proxy that a variable names, and the two as they may be shown: without a password."""
    scheme, slashes, rest = value.rpartition("://")
    shown = f"{name}={scheme}{slashes}{re.sub('.*@', '***@', rest, flags=re.DOTALL)}"
    remedy = f"unset {name}, or name the server's host in NO_PROXY"
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        if not proxy.url.host:
            raise ValueError("it names no host")
    except (ValueError, httpx.InvalidURL) as error:
        reason = "" if "@" in value else f" ({error})"  # httpx quotes a part of it, which may be of the password
        raise RemoteError(
            f"{shown}: found no address of a proxy{reason}, expected one such as http://127.0.0.1:3128. Correct it,"
            f" {remedy}."
        ) from error
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise RemoteError(
            f"{shown}: found a SOCKS proxy, which needs the package socksio, and that is not installed. `pip install"
            f" socksio`, {remedy}."
        )
    return proxy, shown


def _certificates() -> tuple[ssl.SSLContext, str]:
    """The certificates of SSL_CERT_FILE or SSL_CERT_DIR, else those that come with httpx; and the variable."""
    name = next((name for name in _TRUST if os.environ.get(name)), None)
    shown = f"{name}={os.environ[name]}" if name else ""
    try:
        if name is None:
            return httpx.create_ssl_context(trust_env=False), "the package certifi"
        if name == "SSL_CERT_DIR":
            next(Path(os.environ[name]).iterdir(), None)  # ssl passes an absent folder over, and trusts nothing then
            return ssl.create_default_context(capath=os.environ[name]), shown
        return ssl.create_default_context(cafile=os.environ[name]), shown
    except OSError as error:  # ssl.SSLError, too
        log = f"SSLKEYLOGFILE={os.environ['SSLKEYLOGFILE']}" if os.environ.get("SSLKEYLOGFILE") else ""
        told = " and ".join(filter(None, (shown, log)))
        raise RemoteError(
            f"{told}: cannot be used ({error}), expected a file or folder of certificates in PEM. Correct or unset it."
        ) from error
