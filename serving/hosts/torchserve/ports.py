"""The ports of a TorchServe."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from ganctl.serving.hosts.ports import bind_ports


class Ports(NamedTuple):
    """The five ports of a TorchServe."""

    inference: int
    management: int
    metrics: int
    grpc: int
    grpc_management: int


@contextlib.contextmanager
def reserve_ports(host: str, port: int, metrics_host: str = "127.0.0.1") -> Iterator[Ports]:
    """Yields five ports that can be used now; see `bind_ports`. TorchServe sets SO_REUSEADDR."""
    with bind_ports(host, port, Ports._fields, metrics_host) as sockets:
        yield Ports(*(each.getsockname()[1] for each in sockets))
