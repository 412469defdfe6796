"""What tests of several packages share: a small finished run, and the command line in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import torch

from ganctl.training.loop.session import Session
from tests.forked import ForkServer
from tests.slowest import SlowestTable
from tests.waiting import PATIENCE

# no example is wrong because it took long
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

SMALL = (
    "model.base_channels=8", "evaluation.num_images=100", "evaluation.test_images=100", "log.every=10",
    "log.tensorboard=false", "train.duration=10 epochs", "evaluation.every=2 epochs",
    "train.precision=fp32",  # what follows no clock
)  # fmt: skip

SHORT = (*SMALL, "train.batch_size=32", "train.duration=1600 images", "evaluation.every=320 images")
PRESETS = ("conv", "lightning-basic-gan")  # `residual` has tests of its own; the others differ from conv in numbers

Ganctl = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slowest", metavar="FILE", help="Write a table of the slowest tests and files to FILE.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slowest") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SlowestTable(Path(config.getoption("--slowest"))))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none here")


@pytest.fixture(scope="session", autouse=True)
def own_signals() -> Iterator[None]:
    """What the tests start ignores no signal because whoever started the tests does (nohup, a script's `&`)."""
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)  # the tests themselves go on as before
                stack.callback(signal.signal, number, signal.SIG_IGN)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_settings() -> Iterator[None]:
    """What the environment sets for other runs of ganctl, tests are not run with."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("GANCTL_") or name == "PATH_DATASETS":
                patch.delenv(name)
        patch.setenv("GANCTL_TURNS", "off")  # a training that a test holds or stops would keep the cores
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests keep in the user's cache is theirs alone, and found by none after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a conditional run of 40 steps that has a best checkpoint."""
    return train_small(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="session")
def small_unconditional_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the tutorial's unconditional networks."""
    return train_small(tmp_path_factory.mktemp("unconditional") / "run", preset="lightning-basic-gan", max_steps=20)


def launch(run_dir: Path, *, preset: str = "conv", resume: str | None = None, extra: tuple[str, ...] = ()) -> Session:
    """A run of 50 steps of 32 images, evaluated every 10."""
    assignments = () if resume else (*SHORT, *extra)
    return Session(preset=None if resume else preset, assignments=assignments, run_dir=run_dir, resume=resume)


def train_small(run_dir: Path, *, preset: str = "conv", max_steps: int = 40, extra: tuple[str, ...] = ()) -> Path:
    Session(preset=preset, assignments=[*SMALL, *extra], run_dir=run_dir).build(max_steps=max_steps).fit()
    return run_dir


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def ganctl(tmp_path: Path, fork_server: ForkServer) -> Ganctl:
    """Runs `ganctl WORDS…` in a process of its own, forked, in an empty folder."""

    def run(
        *words: object, timeout: float = PATIENCE, cwd: Path = tmp_path, env: Mapping[str, str] = os.environ
    ) -> "subprocess.CompletedProcess[str]":
        return fork_server.run([str(word) for word in words], cwd, env, timeout)

    return run


@pytest.fixture
def started_ganctl(tmp_path: Path) -> Ganctl:
    """Runs `python -m ganctl WORDS…` in an empty folder, for tests about the start."""

    def run(*words: object, timeout: float = PATIENCE, **kwargs: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "ganctl", *map(str, words)]
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": timeout, "check": False, **kwargs}
        return subprocess.run(command, **options)  # type: ignore[call-overload, no-any-return]

    return run


def one_object(stdout: str) -> dict[str, object]:
    lines = stdout.splitlines()
    assert len(lines) == 1, stdout
    record = json.loads(lines[0])
    assert isinstance(record, dict)
    return record
