"""Clients of TorchServe's own management API and metrics, which listen on Unix sockets in the private folder.

No setting of TorchServe forbids `PUT`, which can stop workers. The management port passes GET requests on.
"""

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ganctl.serving.client.connections import empty_ssl_context, local_client
from ganctl.serving.hosts.management import Management, ManagementReply, refusal


def front_end_client(path: Path) -> httpx.Client:
    """An HTTP client for the Unix socket `path`; its base URL is `http://front-end`."""
    transport = httpx.HTTPTransport(uds=str(path), verify=empty_ssl_context(), trust_env=False)
    return local_client(transport=transport, base_url="http://front-end", timeout=10.0)


def front_end_metrics(client: httpx.Client) -> Iterator[Metric]:
    """Yields the front end's own metrics: replies that no worker gave, and the time that requests wait."""
    yield from text_string_to_metric_families(client.get("/metrics").raise_for_status().text)


def open_management(port: int, path: Path) -> Management:
    """Opens the management port: it passes GET requests on to TorchServe's management API.

    Args:
        port: the port.
        path: the Unix socket of TorchServe's management API.
    """
    return Management(port, partial(_pass_on, front_end_client(path)))


def _pass_on(client: httpx.Client, path: str, authorization: str) -> ManagementReply:
    try:
        reply = client.get(path, headers={"Authorization": authorization} if authorization else {})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return refusal(HTTPStatus.BAD_GATEWAY, f"TorchServe does not answer: {error!r}")
    return ManagementReply(reply.status_code, reply.headers.get("content-type", "application/json"), reply.content)
