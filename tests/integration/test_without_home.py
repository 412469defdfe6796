"""Every command works for a user that has no home, whose home is another's, and whom the system does not list."""

import json
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import one_object
from tests.unprivileged import UID, Stranger, stranger_in
from tests.waiting import PATIENCE

SMALL = (
    "--set",
    "model.base_channels=8",
    "--set",
    "evaluation.num_images=100",
    "--batch-size",
    "8",
    "--max-steps",
    "2",
)


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    folder = Path(tempfile.mkdtemp(prefix="ganctl-stranger-"))  # pytest's own folders are closed to other users
    try:
        found = stranger_in(folder)
        if isinstance(found, str):
            pytest.skip(found)
        yield found
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["unset", "another's"])
def test_evaluation_needs_no_home(kind: str, stranger: Stranger) -> None:
    private = stranger.folder.parent / "of-root"
    private.mkdir(mode=0o700, exist_ok=True)
    variables = {"HOME": str(private)} if kind == "another's" else {}
    done = stranger.run("evaluate", "pretrained", "--num-images", 100, "--json", **variables)
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["num_images"] == 100
    assert done.stderr.count("are not cached") == 1, "told once"
    assert "Traceback" not in done.stderr


def test_the_whole_way_needs_no_home(stranger: Stranger) -> None:
    for words in (
        ("train", *SMALL, "--run-dir", "run"),
        ("export", "run"),
        ("package", "run/export"),
        ("sample", "run", "--out", "digits.png"),
    ):
        done = stranger.run(*words, "--json")
        assert done.returncode == 0, (words, done.stderr)
        assert one_object(done.stdout)
        assert "Traceback" not in done.stderr, (words, done.stderr)


def test_a_server_needs_no_home(stranger: Stranger) -> None:
    command = [str(stranger.python), "-m", "ganctl", "serve", "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(
        command, cwd=stranger.folder, env=stranger.environment(), user=UID, group=UID, extra_groups=[],
        stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"{url}/predictions/digits"
            ) as reply:
                assert reply.read().startswith(b"\x89PNG")
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0


def test_a_data_set_to_be_downloaded_needs_a_folder_which_is_told(stranger: Stranger) -> None:
    done = stranger.run("train", "--dry-run", "--set", "data.name=kmnist")
    assert done.returncode == 4, done.stderr
    assert "Set data.root or PATH_DATASETS to a folder" in done.stderr
    assert "Traceback" not in done.stderr
