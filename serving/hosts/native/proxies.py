"""Finds the client of a request that trusted proxies passed on."""

import ipaddress
from collections.abc import Sequence


class Proxies:
    """The addresses and networks of trusted proxies; `*` is every address."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Reads the addresses.

        Raises:
            ValueError: one of them is no address and no network.
        """
        self._all = "*" in addresses
        self._networks = [ipaddress.ip_network(address) for address in addresses if address != "*"]

    def client(self, peer: str | None, forwarded: str) -> str | None:
        """Returns the address of the client.

        Args:
            peer: the address at the other end of the connection; None on a Unix socket.
            forwarded: the value of X-Forwarded-For, to which each proxy appended the address from which it got the
                request; only what a trusted proxy appended is believed.
        """
        addresses = [address.strip() for address in forwarded.split(",") if address.strip()]
        client = peer
        while addresses and self._trusts(client):
            client = addresses.pop()
        return client

    def _trusts(self, address: str | None) -> bool:
        if self._all or address is None:
            return self._all
        try:
            found = ipaddress.ip_address(address)
        except ValueError:  # a proxy may append something else, like `unknown`
            return False
        found = getattr(found, "ipv4_mapped", None) or found  # of an IPv4 client on a socket for both
        return any(found in network for network in self._networks)
