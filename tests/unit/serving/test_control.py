"""Orders reach the server of a port, and nobody else's; what it cannot do comes back with its reason."""

import os
import re
from collections.abc import Iterator

import pytest

from serving import control
from serving.control import Control, Message, give
from serving.errors import DeployError, ServerError

PORT = 1 + os.getpid() % 60_000  # no other run of this test has it


def obey(order: Message) -> Message:
    if order.get("refuse"):
        raise DeployError("it draws nothing")
    if order.get("break"):
        raise OSError("no space left")
    if order.get("defect"):
        return {"heard": order["absent"]}
    return {"heard": dict(order)}


@pytest.fixture
def listening() -> Iterator[Control]:
    listening = Control(PORT, obey)
    yield listening
    listening.close()


@pytest.mark.usefixtures("listening")
def test_an_order_is_obeyed_and_answered() -> None:
    for number in range(3):
        assert give(PORT, {"mar": f"/{number}.mar"}) == {"heard": {"mar": f"/{number}.mar"}}


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("order", "code", "told"),
    [("refuse", 5, "draws nothing"), ("break", 1, "no space left"), ("defect", 1, "KeyError('absent')")],
)
def test_what_cannot_be_done_is_told_with_its_exit_code(order: str, code: int, told: str) -> None:
    with pytest.raises(ServerError, match=re.escape(told)) as caught:
        give(PORT, {order: True})
    assert caught.value.exit_code == code
    assert give(PORT, {}) == {"heard": {}}, "it goes on"


@pytest.mark.usefixtures("listening")
def test_a_stranger_is_neither_obeyed_nor_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_peer", lambda connection: 12345)
    with pytest.raises(ServerError, match="another user's"):
        give(PORT, {})


def test_nobody_listens_once_it_is_closed() -> None:
    Control(PORT, obey).close()
    with pytest.raises(ServerError, match=f"--port {PORT}: no `ganctl serve` of this user"):
        give(PORT, {})
