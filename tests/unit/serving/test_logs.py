"""The traceback of a failed worker is reported completely and once, even if it is written slowly."""

import threading
from pathlib import Path

from ganctl.serving.hosts.torchserve.logs import Logs
from tests.waiting import PATIENCE

HEAD = "2026-01-01T00:00:00,000 INFO W-9000-digits_1.0-stdout - "
START = ["[PID]17", "Torch worker started."]
FAILURE = ["Backend worker process died.", "Traceback (most recent call last):", '  File "worker.py", line 1, in main']
REASON = "InvalidProtobuf: not an ONNX file"


def write(folder: Path, *messages: str) -> None:
    with (folder / "workers.log").open("a", encoding="utf-8") as file:
        file.writelines(f"{HEAD}{message}\n" for message in messages)


def test_the_report_waits_for_the_last_line_of_a_traceback(tmp_path: Path) -> None:
    write(tmp_path, *START, *FAILURE)
    events: list[str] = []

    def wait() -> None:
        Logs(tmp_path).wait_for_traceback(PATIENCE)
        events.append("returned")

    waiting = threading.Thread(target=wait)
    waiting.start()
    for number in range(3):
        waiting.join(0.15)  # the test passes with any pause; a longer one detects a missing wait more reliably
        write(tmp_path, f'  File "handler.py", line {number}, in handle')
    events.append("written")
    write(tmp_path, REASON)
    waiting.join(PATIENCE)
    assert events == ["written", "returned"]
    assert Logs(tmp_path).message().splitlines()[-1] == REASON


def test_only_the_traceback_of_the_first_worker_is_reported(tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, *START, *FAILURE, REASON)
    assert Logs(tmp_path).worker_died()
    Logs(tmp_path).wait_for_traceback()
    assert Logs(tmp_path).message().count("Traceback") == 1
    assert Logs(tmp_path).message().splitlines()[-1] == REASON


def test_without_a_traceback_the_last_lines_of_the_log_are_reported(tmp_path: Path) -> None:
    write(tmp_path, *START, "Backend worker process died.")
    Logs(tmp_path).wait_for_traceback()
    assert "workers.log" in Logs(tmp_path).message()
    assert Logs(tmp_path).message().splitlines()[-1].endswith("Backend worker process died.")
