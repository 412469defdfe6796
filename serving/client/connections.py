"""Connection options for a URL: direct on loopback, else with the environment's proxy and certificates.

httpx does not read the environment itself here. It would fail for every URL if a variable is invalid, and its errors do
not name the variable.
"""

import importlib.util
import ipaddress
import os
import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from ganctl.serving.addresses import resolves_to_loopback
from ganctl.serving.errors import RemoteError

_LOOPBACK_MOUNTS = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}  # None: httpx uses no proxy


def parse_url(text: str) -> httpx.URL:
    """Parse the URL of a server. Raises RemoteError if it is invalid."""
    try:
        url = httpx.URL(text)
        if url.scheme in ("http", "https") and url.host and (url.port or 1) < 1 << 16:
            return url
        reason = ""
    except (httpx.InvalidURL, ValueError) as error:
        reason = f" ({error})"
    raise RemoteError(f"{text}: is not the address of a server{reason}. Give one such as http://127.0.0.1:8080.")


def empty_ssl_context() -> ssl.SSLContext:
    """An SSL context that loads no certificates, for plain HTTP; httpx requires a context of every client."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def local_client(**options: Any) -> httpx.Client:
    """A client of a server on this machine; it ignores the environment's proxies and certificates."""
    return httpx.Client(trust_env=False, verify=empty_ssl_context(), **options)


class Route(NamedTuple):
    """Connection options for a URL.

    options: keyword arguments of httpx.Client and httpx.AsyncClient.
    proxy_hint: a sentence about the proxy for an error message; empty without a proxy.
    ca_source: the variable that names the certificates, as NAME=VALUE, or the package that contains them.
    """

    options: dict[str, Any]
    proxy_hint: str
    ca_source: str


def route_to(url: httpx.URL) -> Route:
    """Find the connection options for a URL. Raises RemoteError if a variable that it needs is unusable."""
    found = None if resolves_to_loopback(url.host) else _find_proxy(url)
    proxy, shown = _read_proxy(*found) if found else (None, "")
    encrypted_proxy = proxy is not None and proxy.url.scheme == "https"
    needs_certificates = encrypted_proxy or url.scheme == "https"
    verify, ca_source = _certificates() if needs_certificates else (empty_ssl_context(), "")
    if proxy is not None and encrypted_proxy:
        proxy.ssl_context = verify
    options = {"trust_env": False, "verify": verify, "proxy": proxy, "mounts": _LOOPBACK_MOUNTS}
    hint = f" The request used the proxy {shown}; NO_PROXY can exclude the server." if shown else ""
    return Route(options, hint, ca_source)


def _find_proxy(url: httpx.URL) -> tuple[str, str] | None:
    """The name and value of the variable that gives the proxy for a URL; None if there is none."""
    if _is_excluded(url, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""):
        return None
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if value := os.environ.get(variable):
                return variable, value
    return None


def _is_excluded(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether NO_PROXY excludes a URL from the proxy.

    An entry is a host, a domain (`.example.com`, `*.example.com`), an address or a network (10.0.0.0/8), each with or
    without a port, or `*`.
    """
    host, port = url.host.rstrip("."), url.port or (443 if url.scheme == "https" else 80)
    for entry in re.split(r"[,\s]+", no_proxy.strip()):
        with_port = re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry)
        if with_port is not None and int(with_port[2]) != port:
            continue
        name = (with_port[1] if with_port else entry).strip("[]").lower()
        domain = name.removeprefix("*").removeprefix(".")
        if name == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
            return True
        with suppress(ValueError):  # the host or the entry is a name
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _read_proxy(name: str, value: str) -> tuple[httpx.Proxy, str]:
    """The proxy that a variable names, and NAME=VALUE without a password."""
    scheme, slashes, rest = value.rpartition("://")
    shown = f"{name}={scheme}{slashes}{re.sub('.*@', '***@', rest, flags=re.DOTALL)}"
    remedy = f"unset {name}, or add the server's host to NO_PROXY"
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        if not proxy.url.host:
            raise ValueError("it has no host")
    except (ValueError, httpx.InvalidURL) as error:
        # httpx quotes a part of the value, which may contain the password
        reason = "" if "@" in value else f" ({error})"
        raise RemoteError(
            f"{shown}: found no proxy address{reason}, expected one like http://127.0.0.1:3128. Correct it, {remedy}."
        ) from error
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise RemoteError(
            f"{shown}: found a SOCKS proxy, which needs the package socksio. Run `pip install socksio`, {remedy}."
        )
    return proxy, shown


def _certificates() -> tuple[ssl.SSLContext, str]:
    """An SSL context from SSL_CERT_FILE or SSL_CERT_DIR, else from certifi; and the source, for messages."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if file:
            return ssl.create_default_context(cafile=file), f"SSL_CERT_FILE={file}"
        if folder:
            next(Path(folder).iterdir(), None)  # raises for an absent folder, which ssl would ignore
            return ssl.create_default_context(capath=folder), f"SSL_CERT_DIR={folder}"
        return httpx.create_ssl_context(trust_env=False), "the package certifi"
    except OSError as error:  # includes ssl.SSLError
        # Python writes session keys to SSLKEYLOGFILE
        names = ("SSL_CERT_FILE" if file else "SSL_CERT_DIR", "SSLKEYLOGFILE")
        shown = " and ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
        raise RemoteError(
            f"{shown}: cannot be used ({error}), expected PEM certificates. Correct or unset it."
        ) from error
