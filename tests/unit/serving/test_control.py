"""Commands reach the server of a port if it is this user's; its errors come back with their exit codes."""

import errno
import os
import re
import socket
from collections.abc import Iterator

import pytest

from ganctl.serving.deploy import control_socket
from ganctl.serving.deploy.control_socket import ControlSocket, Message, send_command
from ganctl.serving.errors import DeployError, ServerError


def handle(command: Message) -> Message:
    if command.get("refuse"):
        raise DeployError("digits.mar: the smoke test failed")
    if command.get("full disk"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/models/digits.mar")
    if command.get("defect"):
        return {"received": command["absent"]}
    return {"received": dict(command)}


@pytest.fixture
def port() -> Iterator[int]:
    """A port that no server and no other test on this machine uses, because it is bound here."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def listening(port: int) -> Iterator[ControlSocket]:
    listening = ControlSocket(port, handle)
    yield listening
    listening.close()


@pytest.mark.usefixtures("listening")
def test_a_command_is_handled_and_its_result_is_returned(port: int) -> None:
    for number in range(3):
        assert send_command(port, {"mar": f"/{number}.mar"}) == {"received": {"mar": f"/{number}.mar"}}


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        ("refuse", 5, "digits.mar: the smoke test failed"),
        ("full disk", 1, "No space left"),
        ("defect", 1, "KeyError: 'absent'"),
    ],
)
def test_the_error_of_a_command_is_returned_with_its_exit_code(command: str, code: int, reason: str, port: int) -> None:
    with pytest.raises(ServerError, match=re.escape(reason)) as caught:
        send_command(port, {command: True})
    assert caught.value.exit_code == code
    assert send_command(port, {}) == {"received": {}}, "the server accepts more commands"


@pytest.mark.usefixtures("listening")
def test_a_server_of_another_user_is_sent_no_command(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "peer_uid", lambda connection: 12345)
    with pytest.raises(ServerError, match=f"--port {port}: .*another user"):
        send_command(port, {})


def test_a_command_to_a_port_without_a_server_is_an_error_that_names_the_port(port: int) -> None:
    ControlSocket(port, handle).close()
    with pytest.raises(ServerError, match=rf"--port {port}: .*`ganctl serve`"):
        send_command(port, {})
