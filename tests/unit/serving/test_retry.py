"""Clients retry failed requests within their timeout, and renew expired keys."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ganctl.serving.client.client import AsyncClient, Client
from ganctl.serving.errors import RemoteError
from tests.waiting import PATIENCE

URL = "http://127.0.0.1:8080"
Outcome = tuple[int, dict[str, Any]] | Exception  # a status with other arguments of httpx.Response, or no response
GOOD: Outcome = (200, {"content": b"picture"})
DIED: Outcome = (500, {"json": {"code": 500, "type": "InternalServerException", "message": "Worker died."}})
RAY_DIED: Outcome = (500, {"text": "Internal Server Error"})
BUSY: Outcome = (503, {})
Fetch = Callable[..., tuple[bytes, int]]
TIMEOUT = 8.0  # seconds; a client waits half of it for the reply to a lost request


def transport(outcomes: list[Outcome], requests: list[httpx.Request]) -> httpx.MockTransport:
    """Replies with each outcome once, then always with the last one; records the requests."""

    def reply(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        outcome = outcomes[min(len(requests), len(outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome[0], **outcome[1])

    return httpx.MockTransport(reply)


def fetch(outcomes: list[Outcome], **options: Any) -> tuple[bytes, int]:
    """A picture from the synchronous client, and its number of requests."""
    requests: list[httpx.Request] = []
    with Client(URL, transport=transport(outcomes, requests), **options) as client:
        return client.picture(digits=7), len(requests)


def fetch_async(outcomes: list[Outcome], **options: Any) -> tuple[bytes, int]:
    """A picture from the asynchronous client, and its number of requests."""
    requests: list[httpx.Request] = []

    async def picture() -> bytes:
        async with AsyncClient(URL, transport=transport(outcomes, requests), **options) as client:
            return await client.picture(digits=7)

    return asyncio.run(picture()), len(requests)


BOTH_CLIENTS = pytest.mark.parametrize("fetch", [fetch, fetch_async])


@BOTH_CLIENTS
@pytest.mark.parametrize("failure", [BUSY, (507, {}), (429, {}), DIED, RAY_DIED, httpx.ReadError("reset")])
def test_a_busy_server_a_dead_worker_or_a_lost_connection_is_retried(fetch: Fetch, failure: Outcome) -> None:
    assert fetch([failure, failure, GOOD]) == (b"picture", 3)


@BOTH_CLIENTS
@pytest.mark.parametrize("status", [400, 404, 406, 413, 500])
def test_a_refused_request_is_an_error_without_a_retry(fetch: Fetch, status: int) -> None:
    with pytest.raises(RemoteError) as caught:
        fetch([(status, {"json": {"message": "no"}}), GOOD])
    assert caught.value.status == status


def test_a_refused_connection_is_retried_only_after_a_reply() -> None:
    refused = httpx.ConnectError("connection refused")
    with pytest.raises(RemoteError, match="connection refused") as caught:
        fetch([refused, GOOD])
    assert caught.value.status is None
    assert fetch([BUSY, refused, refused, GOOD]) == (b"picture", 4)


class Clock:
    """A clock that advances only in sleeps."""

    now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(asyncio, "sleep", clock.asleep)
    return clock


@BOTH_CLIENTS
def test_requests_end_at_the_timeout(fetch: Fetch, clock: Clock) -> None:
    with pytest.raises(RemoteError) as caught:
        fetch([BUSY], timeout=0.5)
    assert caught.value.status == 503
    assert 1000.1 < clock.now <= 1000.5, "it retries until the timeout"


@BOTH_CLIENTS
def test_a_retry_after_that_exceeds_the_timeout_is_an_error_at_once(fetch: Fetch, clock: Clock) -> None:
    with pytest.raises(RemoteError) as caught:
        fetch([(503, {"headers": {"Retry-After": "60"}}), GOOD], timeout=5)
    assert caught.value.status == 503
    assert clock.now == 1000


def test_pauses_between_attempts_grow_and_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(RemoteError):  # of the last outcome, as sleeping takes no time
        fetch([*[BUSY] * 8, (400, {"json": {}})])
    assert len(pauses) == 8
    for attempt, seconds in enumerate(pauses):
        assert 0.025 * 2**attempt <= seconds <= 0.05 * 2**attempt or 1 <= seconds <= 2
    assert len(set(pauses)) == 8


def test_the_read_timeout_is_half_of_the_remaining_time_and_all_of_it_after_a_read_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[httpx.Request] = []
    clock = iter([100.0, 100.0, 103.0, 103.0, 104.0, 104.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    outcomes: list[Outcome] = [BUSY, httpx.ReadTimeout("no reply"), GOOD]
    with Client(URL, timeout=5, transport=transport(outcomes, requests)) as client:
        assert client.picture() == b"picture"
    assert [request.extensions["timeout"]["read"] for request in requests] == [2.5, 1.0, 1.0]


def picture_from(url: str) -> bytes:
    with Client(url, timeout=TIMEOUT) as client:
        return client.picture(digits=7)


def picture_from_async(url: str) -> bytes:
    async def picture() -> bytes:
        async with AsyncClient(url, timeout=TIMEOUT) as client:
            return await client.picture(digits=7)

    return asyncio.run(picture())


@pytest.mark.parametrize("picture", [picture_from, picture_from_async])
def test_a_request_that_the_server_loses_is_retried_within_the_timeout(picture: Callable[[str], bytes]) -> None:
    """TorchServe loses requests that it has batched for a worker when that worker dies."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        server.settimeout(PATIENCE)

        def reply_to_the_second() -> None:
            lost, _ = server.accept()
            with lost, server.accept()[0] as retried:
                retried.recv(4096)
                retried.sendall(response)

        done = thread.submit(reply_to_the_second)
        assert picture(f"http://127.0.0.1:{server.getsockname()[1]}") == b"picture"
        done.result()


def write_keys(file: Path, inference: str) -> None:
    file.write_text(json.dumps({name: {"key": key} for name, key in (("inference", inference), ("API", "api"))}))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_expired_key_is_read_again_and_then_renewed(tmp_path: Path, asynchronous: bool) -> None:
    """The server accepts the last of the `valid` keys, and writes another one into its file when it is renewed."""
    file, valid, renewals = tmp_path / "key_file.json", ["two"], []
    write_keys(file, "one")

    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.port == 8081:
            assert (request.url.path, request.url.query) == ("/token", b"type=inference")
            assert request.headers["Authorization"] == "Bearer api"
            renewals.append(request)
            valid.append("three")
            write_keys(file, "three")
            return httpx.Response(200, json={})
        if request.headers.get("Authorization") == f"Bearer {valid[-1]}":
            return httpx.Response(200, content=b"picture")
        return httpx.Response(400, json={"message": "Token Authentication failed. Token expired"})

    options: dict[str, Any] = {"token_file": file, "transport": httpx.MockTransport(reply)}
    management: dict[str, Any] = {"management_url": "http://127.0.0.1:8081"}

    def use_client() -> None:
        with Client(URL, **options, **management) as client:
            write_keys(file, "two")
            assert client.picture() == b"picture"  # with the new key of the file
            assert not renewals
            valid.append("not in the file")
            assert client.picture() == b"picture"
            assert len(renewals) == 1

    async def use_async_client() -> None:
        async with AsyncClient(URL, **options, **management) as client:
            write_keys(file, "two")
            assert await client.picture() == b"picture"
            assert not renewals
            valid.append("not in the file")
            assert await client.picture() == b"picture"
            assert len(renewals) == 1

    if asynchronous:
        asyncio.run(use_async_client())
    else:
        use_client()
    with Client(URL, **options) as client:
        valid.append("not in the file")
        with pytest.raises(RemoteError, match="Token expired"):
            client.picture()  # it has no management URL


def test_an_absent_token_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=rf"{re.escape(str(tmp_path))}/absent\.json: .*`ganctl serve --auth token`"):
        Client(URL, token_file=tmp_path / "absent.json")
