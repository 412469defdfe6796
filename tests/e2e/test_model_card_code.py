"""The code in a model card runs where this project is not installed, and draws the images of the export."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ganctl.common.latents import latents
from ganctl.common.pixels import to_uint8
from ganctl.exports.documents import write_documents
from ganctl.exports.formats import get_format
from ganctl.training.models.base import ImageShape
from ganctl.training.models.conv import ConvGenerator
from tests.unit.exports.cards import code_blocks, write_carded_export
from tests.unit.serving.small_export import CLASSES, Z_DIM, entry
from tests.waiting import PATIENCE

PROJECT = Path(__file__).parents[2]
KINDS = {"digits": (True, 1), "color": (False, 3), "transparent": (True, 4)}  # conditional, channels
_NETWORK = ("failed to fetch", "error sending request", "dns error", "offline", "enotfound", "etimedout", "eai_again")


@pytest.fixture(scope="module", params=["digits", pytest.param("color", marks=pytest.mark.soak), "transparent"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_carded_export(tmp_path_factory.mktemp("export") / "my model", *KINDS[request.param])


def run(command: Sequence[object], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command without the variables by which Python would find this project."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    words = [str(word) for word in command]
    options: Any = {"capture_output": True, "text": True, "timeout": PATIENCE, "check": False}
    return subprocess.run(words, cwd=cwd, env=environment, **options)


def install(command: Sequence[object], cwd: Path) -> None:
    """Installs packages; skips the test if the package index cannot be reached."""
    done = run(command, cwd)
    if done.returncode and any(word in done.stderr.lower() for word in _NETWORK):
        pytest.skip(f"needs a package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def new_environment(folder: Path) -> Path:
    """Makes a virtual environment without packages; returns its interpreter."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv in the environment of the tests")
    install([uv, "venv", "--python", sys.executable, folder], folder.parent)
    python = folder / "bin" / "python"
    assert "No module named 'ganctl'" in run([python, "-c", "import ganctl"], folder).stderr
    return python


@pytest.fixture(scope="module")
def onnx_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the packages that the card names for ONNX Runtime, and no others."""
    python = new_environment(tmp_path_factory.mktemp("onnx") / "venv")
    uv = Path(sys.executable).with_name("uv")
    install([uv, "pip", "install", "--python", python, "onnxruntime", "pillow"], python.parent)
    return python


@pytest.fixture(scope="module")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has links to the packages of this one, but not to this project: to install torch takes minutes."""
    python = new_environment(tmp_path_factory.mktemp("torch") / "venv")
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], python.parent).stdout.strip()
    for name in ("purelib", "platlib"):
        for package in Path(sysconfig.get_path(name)).iterdir():
            link = Path(site) / package.name
            if not package.name.startswith(("ganctl", "_")) and package.suffix != ".pth" and not link.exists():
                link.symlink_to(package)
    assert "No module named 'ganctl'" in run([python, "-c", "import ganctl"], python.parent).stderr
    return python


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both JavaScript packages that the card names."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    # a script of onnxruntime-node downloads libraries for GPUs
    install(["npm", "install", "--ignore-scripts", "onnxruntime-node", "onnxruntime-web"], folder)
    return folder


def code_of(folder: Path, language: str, word: str) -> str:
    """Returns the code of the card that contains a word."""
    code = [code for code in code_blocks((folder / "README.md").read_text("utf-8"), language) if word in code]
    assert len(code) == 1
    return code[0]


def expected_images(folder: Path, z: NDArray[np.float32]) -> NDArray[np.float32]:
    """The images of the export's ONNX file for the latents, one of each class."""
    session = onnxruntime.InferenceSession(folder / "generator.onnx")
    feed = {"z": z, "label": np.arange(len(z))}
    images: NDArray[np.float32] = session.run(["image"], {each.name: feed[each.name] for each in session.get_inputs()})[
        0
    ]
    return images


def assert_is_row_of(picture: Path, images: NDArray[np.float32]) -> None:
    """Checks that a picture shows the images, float32 [N, C, H, W], side by side."""
    with Image.open(picture) as opened:
        assert opened.mode == {1: "L", 3: "RGB", 4: "RGBA"}[images.shape[1]]
        pixels = np.atleast_3d(np.asarray(opened)).astype(int)
    expected = to_uint8(np.concatenate(list(images), axis=2)).transpose(1, 2, 0)
    assert pixels.shape == expected.shape
    seen = expected[..., 3:] > 0 if images.shape[1] == 4 else np.True_
    assert (np.abs(pixels - expected) * seen).max() <= 1
    assert np.ptp(expected) > 50, "the test sees something"


def run_python(python: Path, folder: Path, code: str, where: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Runs code of the card in a copy of the folder; returns its latents and its images."""
    shutil.copytree(folder, where)
    end = f"import numpy\nnumpy.savez('seen.npz', z={'z.numpy()' if 'torch' in code else 'z'}, images=images)\n"
    done = run([python, "-W", "ignore::FutureWarning", "-c", code + end], where)  # TorchScript is deprecated
    assert done.returncode == 0, done.stderr
    with np.load(where / "seen.npz") as seen:
        assert (seen["images"].dtype, len(seen["z"])) == (np.float32, 10)
        return seen["z"], seen["images"]


def test_the_code_for_pytorch_writes_a_picture_of_the_images(folder: Path, torch_python: Path, tmp_path: Path) -> None:
    z, images = run_python(torch_python, folder, code_of(folder, "python", "torch.jit.load"), tmp_path / "copy")
    np.testing.assert_allclose(images, expected_images(folder, z), atol=1e-5)
    assert_is_row_of(tmp_path / "copy/images.png", images)


def test_the_code_for_pytorch_runs_a_pt2_file_if_there_is_no_other(torch_python: Path, tmp_path: Path) -> None:
    folder = write_carded_export(tmp_path / "export")
    torch.manual_seed(0)
    generator = ConvGenerator(Z_DIM, CLASSES, ImageShape(1, 28, 28), base_channels=4).eval()
    content = get_format("pt2").write(generator, {})
    (folder / "generator.pt2").write_bytes(content)
    fields = json.loads((folder / "manifest.json").read_text("utf-8"))
    write_documents(folder, {**fields, "files": {"generator.pt2": entry(content)}})
    code = code_of(folder, "python", "torch.export.load")
    z, images = run_python(torch_python, folder, code, tmp_path / "copy")
    with torch.inference_mode():
        expected = generator(torch.from_numpy(z), torch.arange(CLASSES)).add(1).div(2).numpy()
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_the_code_for_onnx_runtime_writes_a_picture_of_the_images(
    folder: Path, onnx_python: Path, tmp_path: Path
) -> None:
    card = (folder / "README.md").read_text("utf-8")
    assert "`pip install onnxruntime pillow`\n\n```python\nimport numpy" in card, "what the fixture has installed"
    z, images = run_python(onnx_python, folder, code_of(folder, "python", "import onnxruntime"), tmp_path / "copy")
    np.testing.assert_allclose(images, expected_images(folder, z), atol=1e-5)
    assert_is_row_of(tmp_path / "copy/images.png", images)


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_the_javascript_code_draws_the_images(package: str, folder: Path, node_modules: Path) -> None:
    code = code_of(folder, "javascript", '"onnxruntime-node"').replace('"onnxruntime-node"', f'"{package}"')
    script = node_modules / "code.mjs"
    script.write_text(
        f"{code}\nconst seen = {{ z: z.data, image: image.data, rgba }};\n"
        "for (const name in seen) seen[name] = Array.from(seen[name]);\n"
        "console.log(JSON.stringify({ ...seen, dims: image.dims }));\n"
    )
    done = run(["node", script], folder)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    z = np.array(seen["z"], np.float32).reshape(10, -1)
    assert abs(z.mean()) < 0.4
    assert 0.7 < z.std() < 1.3
    expected = expected_images(folder, z)
    assert seen["dims"] == list(expected.shape)
    np.testing.assert_allclose(np.array(seen["image"], np.float32), expected.flatten(), atol=1e-5)
    rgba, first = np.array(seen["rgba"]).reshape(*expected.shape[2:], 4), to_uint8(expected[0]).transpose(1, 2, 0)
    colors = np.repeat(first, 3, axis=2) if first.shape[2] == 1 else first
    assert np.abs(rgba[..., : colors.shape[2]] - colors.astype(int)).max() <= 1
    assert colors.shape[2] == 4 or (rgba[..., 3] == 255).all()


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the command in the card starts, but for its port."""
    command = re.search(r"`(ganctl serve [^`]+)`", (folder / "README.md").read_text("utf-8"))
    assert command is not None
    words = [sys.executable, "-m", *shlex.split(command[1].replace("8080", "0")), "--json"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path_factory.mktemp("server"))}
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.skipif(sys.platform != "linux", reason="the native host needs Linux")
def test_the_curl_command_gets_a_picture_of_the_images(folder: Path, url: str, tmp_path: Path) -> None:
    command = code_of(folder, "bash", "curl").replace("http://127.0.0.1:8080", url)
    done = run(["bash", "-e", "-c", command], tmp_path)
    assert done.returncode == 0, done.stderr
    z_dim = json.loads((folder / "manifest.json").read_text())["z"]["dim"]
    assert_is_row_of(tmp_path / "images.png", expected_images(folder, latents(1, 10, z_dim)))
