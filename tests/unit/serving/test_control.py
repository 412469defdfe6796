"""Commands reach the server of a port, and nobody else's; what it cannot do comes back with its reason."""

import re
import socket
from collections.abc import Iterator

import pytest

from ganctl.serving.deploy import control_socket as control
from ganctl.serving.deploy.control_socket import ControlSocket, Message, send_command
from ganctl.serving.errors import DeployError, ServerError


def handle(order: Message) -> Message:
    if order.get("refuse"):
        raise DeployError("it draws nothing")
    if order.get("break"):
        raise OSError("no space left")
    if order.get("defect"):
        return {"heard": order["absent"]}
    return {"heard": dict(order)}


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nothing else on this machine has, no other run of this test and no server."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def listening(port: int) -> Iterator[ControlSocket]:
    listening = ControlSocket(port, handle)
    yield listening
    listening.close()


@pytest.mark.usefixtures("listening")
def test_an_order_is_obeyed_and_answered(port: int) -> None:
    for number in range(3):
        assert send_command(port, {"mar": f"/{number}.mar"}) == {"heard": {"mar": f"/{number}.mar"}}


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("order", "code", "told"),
    [("refuse", 5, "draws nothing"), ("break", 1, "no space left"), ("defect", 1, "KeyError('absent')")],
)
def test_what_cannot_be_done_is_told_with_its_exit_code(order: str, code: int, told: str, port: int) -> None:
    with pytest.raises(ServerError, match=re.escape(told)) as caught:
        send_command(port, {order: True})
    assert caught.value.exit_code == code
    assert send_command(port, {}) == {"heard": {}}, "it goes on"


@pytest.mark.usefixtures("listening")
def test_a_stranger_is_neither_obeyed_nor_believed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "peer_uid", lambda connection: 12345)
    with pytest.raises(ServerError, match="another user's"):
        send_command(port, {})


def test_nobody_listens_once_it_is_closed(port: int) -> None:
    ControlSocket(port, handle).close()
    with pytest.raises(ServerError, match=f"--port {port}: no `ganctl serve` of this user"):
        send_command(port, {})
