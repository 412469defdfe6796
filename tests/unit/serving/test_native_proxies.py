"""The client of a request is found behind trusted proxies, and no client can claim to be another one."""

import pytest

from ganctl.serving.hosts.native.proxies import Proxies


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ((), "10.0.0.1", "203.0.113.9", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", "203.0.113.9", "203.0.113.9"),
        (("10.0.0.0/8",), "10.0.0.1", "1.2.3.4, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (("10.0.0.0/8",), "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        (("10.0.0.0/8",), "10.0.0.1", "unknown", "unknown"),
        (("10.0.0.0/8",), "10.0.0.1", "", "10.0.0.1"),
        (("*",), None, "203.0.113.9", "203.0.113.9"),
        (("10.0.0.0/8",), None, "203.0.113.9", None),
    ],
)
def test_only_what_trusted_proxies_appended_is_believed(
    trusted: tuple[str, ...], peer: str | None, forwarded: str, client: str | None
) -> None:
    assert Proxies(trusted).client(peer, forwarded) == client
