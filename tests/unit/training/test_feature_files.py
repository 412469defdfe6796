"""Features of a network file: how images are prepared, what counts as features, and TorchScript files.

ONNX files and files of weights have tests of their own (`test_onnx_features.py`, `test_weights_features.py`).
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split, premultiply
from ganctl.training.errors import DataError
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.feature_files import MAX_FEATURES, FileFeatures
from ganctl.training.evaluation.scorer import load_scorer
from tests.unit.training.conftest import RegisterData

PAGE = Path(__file__).parents[3] / "docs/evaluation.md"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")


class Scripted(nn.Module):
    """Has the interface of NVIDIA's network."""

    def __init__(self, features: int = 2048) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 7 * 7, features)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.uint8
        assert img.shape[1] == 3
        pooled = nn.functional.adaptive_avg_pool2d(img.float() / 255, (7, 7)).flatten(1)
        return self.layer(pooled) if return_features else pooled[:, :1]


class Mean(nn.Module):
    """Returns the mean colors in the way of one of the outputs that networks have."""

    def __init__(self, output: str = "features") -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        assert x.shape[1:] == (3, 224, 224)
        colors = x.mean(dim=(2, 3))
        if self.output == "map":
            return torch.stack([0 * colors, 2 * colors], dim=2)[..., None]
        if self.output == "tokens":
            return torch.stack([colors, colors + 1, colors + 2], dim=1)
        if self.output == "image":
            return x.flatten(1)
        if self.output == "labels":
            return colors.argmax(dim=1)
        if self.output == "one":
            return colors[:, :1]
        if self.output == "infinite":
            return 1 / (colors - colors[:1])
        return colors


class Crop(nn.Module):
    """Returns the pixels in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 90:130, 90:130].flatten(1)


class Several(nn.Module):
    """Returns tokens and something else, as traced networks of Hugging Face do."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3))[:, None].expand(-1, 5, -1), x


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted(Scripted(), tmp_path_factory.mktemp("script") / "inception-2015-12-05.pt")


def scripted(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def noise(n: int, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    shape = (n, channels, size, size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def constant(*values: int) -> Tensor:
    """An image of one color, which no resizing changes."""
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1, 1).expand(-1, -1, 20, 20)


def normalized(red: float, green: float, blue: float) -> Tensor:
    return (torch.tensor([[red, green, blue]]) / 255 - MEAN) / STD


def test_a_network_with_nvidias_interface_gets_the_images_unchanged(script: Path) -> None:
    images = noise(120)  # more than two chunks
    expected = torch.jit.load(str(script))(images, return_features=True)
    features = FileFeatures(script)(images)
    assert (features.shape, features.dtype) == ((120, 2048), torch.float32)
    assert torch.allclose(features, expected.detach(), atol=1e-6)


@pytest.mark.parametrize("output", ["features", "map", "tokens"])
def test_features_are_vectors_means_of_maps_or_class_tokens(output: str, tmp_path: Path) -> None:
    features = FileFeatures(scripted(Mean(output), tmp_path / "network.pt"))
    assert torch.allclose(features(constant(10, 100, 250)), normalized(10, 100, 250), atol=1e-5)


def test_the_first_of_several_outputs_gives_the_features(tmp_path: Path) -> None:
    features = FileFeatures(scripted(Several(), tmp_path / "network.pt"))
    assert torch.allclose(features(constant(10, 100, 250)), normalized(10, 100, 250), atol=1e-5)


def test_gray_images_have_three_equal_colors_and_transparent_ones_are_on_white(tmp_path: Path) -> None:
    features = FileFeatures(scripted(Mean(), tmp_path / "network.pt"))
    assert torch.allclose(features(constant(80)), normalized(80, 80, 80), atol=1e-5)
    clear, opaque = constant(0, 0, 0, 0), constant(10, 100, 250, 255)
    assert torch.allclose(features(clear), normalized(255, 255, 255), atol=1e-5)
    assert torch.allclose(features(opaque), normalized(10, 100, 250), atol=1e-5)
    half = features(premultiply(constant(200, 100, 0, 51)))  # a fifth of the color, four fifths of white
    assert torch.allclose(half, normalized(244, 224, 204), atol=0.01)


@pytest.mark.parametrize("size", [28, 300])
def test_images_are_resized_as_pillow_does_it(size: int, tmp_path: Path) -> None:
    features = FileFeatures(scripted(Crop(), tmp_path / "network.pt"))
    images = noise(1, size=size)
    channels = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC))
        for channel in images[0].numpy()
    ]
    resized = torch.from_numpy(np.stack(channels).clip(0, 255))
    expected = ((resized / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))[:, 90:130, 90:130]
    assert torch.allclose(features(images), expected.flatten()[None], atol=1e-3)


def small_images(settings: DataSettings, split: Split) -> ImageSet:
    """Two classes of 30 images: dark and light noise."""
    labels = torch.arange(60) % 2
    images = noise(60, seed=["train", "val", "test"].index(split)) // 2 + 120 * labels[:, None, None, None]
    return ImageSet(images.to(torch.uint8), labels, ("dark", "light"))


def test_the_file_gives_the_distances_and_the_package_the_labels(
    tmp_path: Path, register_data: RegisterData, data_cache: Path
) -> None:
    register_data("small", small_images)
    data = DataSettings(source="small")
    val = small_images(data, "val")
    default, own = (
        Evaluator(data, "test", num_images=60, scorer=load_scorer(data, file_features=features)).score_images(
            val.images, val.labels
        )
        for features in (None, FileFeatures(scripted(Scripted(32), tmp_path / "network.pt")))
    )
    assert default["fd"] != own["fd"]
    for name in ("label_accuracy", "class_balance", "inception_score"):
        assert default[name] == own[name], name


def test_each_network_has_its_own_cached_statistics(
    tmp_path: Path, register_data: RegisterData, data_cache: Path
) -> None:
    register_data("small", small_images)
    data, cache = DataSettings(source="small"), TensorCache(lambda text: None)
    one, other = (scripted(Scripted(32), tmp_path / name) for name in ("one.pt", "other.pt"))
    for path in (None, one, other, one):
        scorer = load_scorer(data, file_features=FileFeatures(path) if path else None)
        Evaluator(data, "test", num_images=60, scorer=scorer, cache=cache)
    assert len(list((data_cache.parent / "real").iterdir())) == 3


def test_the_digest_is_that_of_the_file(script: Path) -> None:
    assert FileFeatures(script).digest == hashlib.sha256(script.read_bytes()).hexdigest()


def test_a_line_says_what_the_file_holds(script: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    FileFeatures(script, lines.append)
    FileFeatures(scripted(Mean(), tmp_path / "mean.pt"), lines.append)
    assert re.search(r"inception-2015-12-05\.pt: TorchScript with return_features, 2,048\b", lines[0])
    assert re.search(r"mean\.pt: TorchScript, 3\b", lines[1])


@pytest.mark.filterwarnings("ignore")  # of the exporters
@pytest.mark.soak
def test_the_code_of_the_evaluation_page_makes_two_files_with_the_same_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    monkeypatch.setattr("torchvision.models.resnet50", lambda weights: resnet18())  # no download
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    script, onnx = (FileFeatures(tmp_path / name)(noise(3)) for name in ("features.pt", "features.onnx"))
    assert script.shape == (3, 512)
    assert torch.allclose(script, onnx, rtol=1e-3, atol=1e-4)


def test_the_error_names_flag_file_finding_and_expectation(script: Path, tmp_path: Path) -> None:
    (tmp_path / "truncated.pt").write_bytes(script.read_bytes()[: script.stat().st_size // 2])
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.pt").touch()
    several = rf"{MAX_FEATURES:,}"
    reasons = {
        tmp_path / "absent.pt": "No such file",
        tmp_path: "Is a directory",
        tmp_path / "truncated.pt": "neither TorchScript nor weights.*DINOv2",
        tmp_path / "noise.pt": "neither TorchScript nor weights.*DINOv2",
        tmp_path / "empty.pt": "neither TorchScript nor weights.*DINOv2",
        scripted(nn.Linear(3, 3), tmp_path / "linear.pt"): r"two images \(RuntimeError: .*mat1 .*expected.*\[N, F\]",
        scripted(Mean("labels"), tmp_path / "labels.pt"): r"int64 \[2\].*expected .*\[N, F\]",
        scripted(Mean("image"), tmp_path / "image.pt"): rf"150,528 features.*{several}",
        scripted(Mean("one"), tmp_path / "one.pt"): rf"1 features.*2 to {several}",
    }
    for path, reason in reasons.items():
        with pytest.raises(DataError, match=f"--features FILE: {re.escape(str(path))}: .*{reason}") as raised:
            FileFeatures(path)
        assert raised.value.exit_code == 4


def test_infinite_features_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = scripted(Mean("infinite"), tmp_path / "infinite.pt")
    with pytest.raises(DataError, match=r"infinite\.pt: .*NaN or infinite"):
        FileFeatures(path)(noise(3))


def test_the_error_for_images_of_2_channels_names_both_numbers(script: Path) -> None:
    with pytest.raises(DataError, match=r"--features .*\b2 channels\b.*\b1\b.*\b3\b"):
        FileFeatures(script)(noise(2, channels=2))
