"""A clock of training that a test advances."""

import pytest


class FakeClock:
    """A monotonic clock that the test advances; the fixture `clock` makes one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("ganctl.training.device.timing.time.monotonic", lambda: self.now)
