"""`ganctl.load(URL)`: a running server draws the images of its export, and needs no torch on the client's side."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganctl import ImageGenerator, load
from ganctl.serving.errors import RemoteError
from tests.integration.serving.conftest import Running, running
from tests.unit.serving.small_export import write_export


@pytest.fixture
def remote(served: Running) -> ImageGenerator:
    return load(served.url)


def test_a_server_has_the_description_of_its_export(remote: ImageGenerator, export: Path) -> None:
    local = load(export)
    assert (remote.version, remote.class_names, remote.shape) == (local.version, local.class_names, local.shape)
    assert (remote.conditional, remote.latent_dim) == (True, None)


def test_a_server_draws_the_images_of_its_export(remote: ImageGenerator, export: Path) -> None:
    local = load(export)
    requests: list[dict[str, Any]] = [
        {"labels": [3, "7"], "count": 300},
        {"text": "2026", "count": 2},
        {"count": 3, "truncation": 0.5},
    ]
    for arguments in requests:
        here, there = (generator.sample(**arguments, seed=6) for generator in (local, remote))
        assert here.labels is not None
        assert there.labels is not None
        assert there.labels.tolist() == here.labels.tolist()
        assert np.abs(there.images.astype(int) - here.images).max() <= 1
        assert there.z is None


def test_a_server_walks_as_its_export(remote: ImageGenerator, export: Path) -> None:
    here, there = (generator.walk(7, count=3, frames=30, seed=6) for generator in (load(export), remote))
    assert np.abs(there.images.astype(int) - here.images).max() <= 1
    drawn = remote.walk(7, count=2, frames=4)
    assert np.array_equal(remote.walk(7, count=2, frames=4, seed=drawn.seed).images, drawn.images)


@pytest.mark.parametrize("truncation", [1e-6, 0.01, 0.03])
def test_a_walk_with_equal_frames_has_all_its_frames(
    truncation: float, remote: ImageGenerator, export: Path
) -> None:  # the server's file joins equal frames
    arguments: dict[str, Any] = {"count": 2, "frames": 40, "seed": 6, "truncation": truncation}
    here, there = (generator.walk(7, **arguments) for generator in (load(export), remote))
    assert np.abs(there.images.astype(int) - here.images).max() <= 1


def test_what_a_server_cannot_do_is_an_error_that_says_what_to_load(remote: ImageGenerator) -> None:
    z = np.zeros((1, 16), np.float32)
    calls: list[Callable[[], object]] = [
        lambda: remote.encode(z),
        lambda: remote.decode(z),
        lambda: remote.walk(z=z),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"\bis a server\b.*Load one of them"):
            call()
    with pytest.raises(ValueError, match=r"^walk: .*\bequal\b.*\blarger truncation\b"):
        remote.walk(7, truncation=0.0)
    for labels in ([3, 7], None):
        with pytest.raises(ValueError, match=r"^labels: .*\bcannot mix labels\b.*\bload a run\b"):
            remote.walk(labels)


def test_a_client_needs_no_torch(served: Running) -> None:
    code = (
        "import sys; from ganctl import load; g = load(sys.argv[1]); g.sample(7, seed=1).pil(); g.walk(7, frames=8)\n"
    )
    code += "print({'torch', 'onnxruntime'} & {*sys.modules})"
    command = [sys.executable, "-c", code, served.url]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_color_alpha_and_absent_labels_arrive_and_a_server_that_ends_is_an_error(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", conditional=False, channels=4)
    with running(export, tmp_path, engine="native") as server:
        local, remote = load(export), load(server.url, timeout=2)
        assert (remote.class_names, remote.conditional, remote.shape) == ((), False, (28, 28, 4))
        here, there = (generator.sample(count=3, seed=1) for generator in (local, remote))
        assert there.labels is None
        assert np.abs(there.images.astype(int) - here.images).max() <= 1
        here, there = (generator.walk(count=2, frames=4, seed=1) for generator in (local, remote))
        visible = here.images[..., 3:] > 0  # WebP does not keep the hidden colors
        assert np.abs(np.where(visible, there.images.astype(int) - here.images, 0)).max() <= 1
    with pytest.raises(RemoteError, match=r"no reply.*`ganctl serve`"):
        remote.sample(seed=1)


def test_a_server_with_tokens_needs_the_key(export: Path, tmp_path: Path) -> None:
    with running(export, tmp_path, "--auth", "token", engine="native") as server:
        with pytest.raises(RemoteError, match=r"\b401\b"):
            load(server.url)
        key = json.loads(Path(server.record["token_file"]).read_text())["inference"]["key"]
        assert load(server.url, token=key).sample(7, seed=1).images.shape == (1, 28, 28)
