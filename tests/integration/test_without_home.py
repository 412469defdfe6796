"""Every command works for a user without a name, and without a home folder that the user can read."""

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
from tests.unprivileged import UID, UnlistedUser, create_unlisted_user
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
def user() -> Iterator[UnlistedUser]:
    folder = Path(tempfile.mkdtemp(prefix="ganctl-user-"))  # pytest's folders are closed to other users
    try:
        result = create_unlisted_user(folder)
        if isinstance(result, str):
            pytest.skip(result)
        yield result
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("home", [pytest.param("unset", marks=pytest.mark.soak), "unreadable"])
def test_evaluation_needs_no_home_folder(home: str, user: UnlistedUser) -> None:
    private = user.folder.parent / "of-root"
    private.mkdir(mode=0o700, exist_ok=True)
    variables = {"HOME": str(private)} if home == "unreadable" else {}
    done = user.run("evaluate", "pretrained", "--num-images", 100, "--json", **variables)
    assert done.returncode == 0, done.stderr
    assert one_object(done.stdout)["num_images"] == 100
    assert done.stderr.count("not cached") == 1, "reported once"
    assert "Traceback" not in done.stderr


def test_train_export_package_and_sample_need_no_home_folder(user: UnlistedUser) -> None:
    for words in (
        ("train", *SMALL, "--run-dir", "run"),
        ("export", "run"),
        ("package", "run/export"),
        ("sample", "run", "--out", "digits.png"),
    ):
        done = user.run(*words, "--json")
        assert done.returncode == 0, (words, done.stderr)
        assert one_object(done.stdout)
        assert "Traceback" not in done.stderr, (words, done.stderr)


@pytest.mark.soak
def test_serve_needs_no_home_folder(user: UnlistedUser) -> None:
    command = [str(user.python), "-m", "ganctl", "serve", "--port", "0", "--workers", "1", "--json"]
    with subprocess.Popen(
        command, cwd=user.folder, env=user.environment(), user=UID, group=UID, extra_groups=[],
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


@pytest.mark.soak
def test_the_error_of_a_download_without_a_cache_folder_names_data_source_and_path_datasets(user: UnlistedUser) -> None:
    done = user.run("train", "--dry-run", "--set", "data.source=kmnist")
    assert done.returncode == 4, done.stderr
    for name in ("data.source", "PATH_DATASETS"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
