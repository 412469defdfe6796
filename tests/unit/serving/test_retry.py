"""Clients ask again where that may help, for as long as they are told to, and renew their keys."""

import asyncio
import json
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
Outcome = tuple[int, dict[str, Any]] | Exception  # a status with what httpx.Response takes beside
GOOD: Outcome = (200, {"content": b"picture"})
DIED: Outcome = (500, {"json": {"code": 500, "type": "InternalServerException", "message": "Worker died."}})
BUSY: Outcome = (503, {})
Ask = Callable[..., tuple[bytes, int]]
LOST = 8.0  # seconds, half of which a client waits for the reply to a request that is lost


def answering(outcomes: list[Outcome], asked: list[httpx.Request]) -> Callable[[httpx.Request], httpx.Response]:
    """Gives the outcomes in turn, the last one again and again."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        outcome = outcomes[min(len(asked), len(outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome[0], **outcome[1])

    return answer


def waiting(outcomes: list[Outcome], **options: Any) -> tuple[bytes, int]:
    """A picture by the client that waits, and how often it asked."""
    asked: list[httpx.Request] = []
    with Client(URL, transport=httpx.MockTransport(answering(outcomes, asked)), **options) as client:
        return client.picture(digits=7), len(asked)


def awaiting(outcomes: list[Outcome], **options: Any) -> tuple[bytes, int]:
    """The same by the one that awaits."""
    asked: list[httpx.Request] = []

    async def ask() -> bytes:
        async with AsyncClient(URL, transport=httpx.MockTransport(answering(outcomes, asked)), **options) as client:
            return await client.picture(digits=7)

    return asyncio.run(ask()), len(asked)


@pytest.mark.parametrize("ask", [waiting, awaiting])
@pytest.mark.parametrize("first", [BUSY, (507, {}), (429, {}), DIED, httpx.ReadError("reset")])
def test_who_is_busy_or_has_lost_a_worker_is_asked_again(ask: Ask, first: Outcome) -> None:
    assert ask([first, first, GOOD]) == (b"picture", 3)


@pytest.mark.parametrize("ask", [waiting, awaiting])
@pytest.mark.parametrize("status", [400, 404, 406, 413, 500])
def test_what_would_be_refused_again_is_told_at_once(ask: Ask, status: int) -> None:
    with pytest.raises(RemoteError) as caught:
        ask([(status, {"json": {"message": "no"}}), GOOD])
    assert caught.value.status == status


def test_where_no_server_is_nobody_waits_for_one_but_a_lost_one_may_come_back() -> None:
    gone = httpx.ConnectError("refused")
    with pytest.raises(RemoteError, match="no reply"):
        waiting([gone, GOOD])
    assert waiting([BUSY, gone, gone, GOOD]) == (b"picture", 4)


class Clock:
    """A clock that only pauses move."""

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


@pytest.mark.parametrize("ask", [waiting, awaiting])
def test_nobody_asks_beyond_the_deadline(ask: Ask, clock: Clock) -> None:
    with pytest.raises(RemoteError, match="503"):
        ask([BUSY], timeout=0.5)
    assert 1000.1 < clock.now <= 1000.5, "as long as there is time, and no longer"
    with pytest.raises(RemoteError, match="503"):  # told to come back later than that
        ask([(503, {"headers": {"Retry-After": "60"}}), GOOD], timeout=5)


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(RemoteError):  # sleeping takes no time here: the deadline never comes, but the last answer does
        waiting([*[BUSY] * 8, (400, {"json": {}})])
    assert len(waited) == 8
    for attempt, seconds in enumerate(waited):
        assert 0.025 * 2**attempt <= seconds <= 0.05 * 2**attempt or 1 <= seconds <= 2
    assert len(set(waited)) == 8


def test_attempts_have_half_of_the_time_that_is_left_and_all_of_it_after_one_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[httpx.Request] = []
    clock = iter([100.0, 100.0, 103.0, 103.0, 104.0, 104.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    lost = httpx.ReadTimeout("nothing came")
    with Client(URL, timeout=5, transport=httpx.MockTransport(answering([BUSY, lost, GOOD], asked))) as client:
        assert client.picture() == b"picture"
    assert [request.extensions["timeout"]["read"] for request in asked] == [2.5, 1.0, 1.0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_request_that_the_server_has_lost_is_asked_again_in_time(asynchronous: bool) -> None:
    """TorchServe loses requests that it gathers for a worker in the moment of its death."""
    picture = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        server.settimeout(PATIENCE)

        def lose_the_first() -> None:
            lost, _ = server.accept()
            with lost, server.accept()[0] as asked_again:
                asked_again.recv(4096)
                asked_again.sendall(picture)

        done = thread.submit(lose_the_first)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        if asynchronous:

            async def ask() -> bytes:
                async with AsyncClient(url, timeout=LOST) as client:
                    return await client.picture(digits=7)

            assert asyncio.run(ask()) == b"picture"
        else:
            with Client(url, timeout=LOST) as client:
                assert client.picture(digits=7) == b"picture"
        done.result()


def write_keys(file: Path, inference: str) -> None:
    file.write_text(json.dumps({name: {"key": key} for name, key in (("inference", inference), ("API", "api"))}))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_key_that_is_too_old_is_read_again_and_then_renewed(tmp_path: Path, asynchronous: bool) -> None:
    """A TorchServe whose inference key is what its file says, until it is asked for another one."""
    file, valid, renewals = tmp_path / "key_file.json", ["two"], []
    write_keys(file, "one")

    def answer(request: httpx.Request) -> httpx.Response:
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

    transport = httpx.MockTransport(answer)
    options: dict[str, Any] = {
        "token_file": file, "management_url": "http://127.0.0.1:8081", "transport": transport
    }  # fmt: skip

    def waiting() -> None:
        with Client(URL, **options) as client:
            write_keys(file, "two")
            assert client.picture() == b"picture"  # the file has another key by now
            assert not renewals
            valid.append("nobody has it")
            assert client.picture() == b"picture"
            assert len(renewals) == 1

    async def awaiting() -> None:
        async with AsyncClient(URL, **options) as client:
            write_keys(file, "two")
            assert await client.picture() == b"picture"
            valid.append("nobody has it")
            assert await client.picture() == b"picture"
            assert len(renewals) == 1

    if asynchronous:
        asyncio.run(awaiting())
    else:
        waiting()
    with Client(URL, token_file=file, transport=transport) as client:
        valid.append("nobody has it")
        with pytest.raises(RemoteError, match="Token expired"):
            client.picture()  # nowhere to renew it


def test_a_file_without_keys_is_told(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no token file"):
        Client(URL, token_file=tmp_path / "absent.json")
