"""Features of an Inception network from one of two supported files; any other file is an error.

The networks here have random weights: the real ones need a download.
"""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from torch import Tensor, nn

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError, TrainingError
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.feature_files import FileFeatures


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


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted(Scripted(), tmp_path_factory.mktemp("script") / "inception-2015-12-05.pt")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves random weights with the names and shapes of torch-fidelity's file."""
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")


def scripted(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def digits(n: int) -> Tensor:
    return load_split(DataSettings(), "val").images[:n]


def test_nvidias_torchscript_file_gives_its_features(script: Path) -> None:
    images = digits(120)  # more than two chunks
    expected = torch.jit.load(str(script))(images.expand(-1, 3, -1, -1), return_features=True)
    features = FileFeatures(script)(images)
    assert features.shape == (120, 2048)
    assert torch.allclose(features, expected.detach(), atol=1e-6)


def test_torch_fidelitys_weights_give_the_features_of_torch_fidelity(weights: Path) -> None:
    network = fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
    )
    images = digits(3)
    (expected,) = network(images.expand(-1, 3, -1, -1))
    features = FileFeatures(weights)(images)
    assert features.shape == (3, 2048)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-6)


def test_distances_use_inception_features_and_label_scores_use_the_classifier(script: Path) -> None:
    val = load_split(DataSettings(), "val")
    default, inception = (
        Evaluator(DataSettings(), "test", num_images=200, features=features).score_images(
            val.images[:200], val.labels[:200]
        )
        for features in (None, FileFeatures(script))
    )
    for name in ("fd", "fd_floor", "recall"):
        assert default[name] != inception[name], name
    for name in ("label_accuracy", "class_balance", "inception_score"):
        assert default[name] == inception[name], name


def test_each_network_has_its_own_cached_statistics(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = TensorCache(lambda text: None)
    other = scripted(Scripted(), tmp_path / "other.pt")
    for path in (None, script, other, script):
        Evaluator(DataSettings(), "test", num_images=100, features=FileFeatures(path) if path else None, cache=cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def truncate(path: Path, target: Path) -> Path:
    content = path.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target


def test_the_error_for_an_unsupported_file_names_flag_file_and_expected_files(
    script: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.pt").touch()
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "foreign.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    reasons = {
        tmp_path / "absent.pt": "No such file",
        tmp_path: "Is a directory",
        tmp_path / "noise.pt": "TorchScript",
        tmp_path / "empty.pt": "TorchScript",
        truncate(script, tmp_path / "truncated.pt"): "TorchScript",
        truncate(weights, tmp_path / "truncated.pth"): "TorchScript",
        tmp_path / "foreign.pth": r"\b1 tensors\b",
        tmp_path / "list.pth": r"\blist\b",
        scripted(Scripted(1000), tmp_path / "narrow.pt"): r"\(2, 1000\).*\(2, 2048\)",
        scripted(nn.Linear(3, 3), tmp_path / "linear.pt"): r"uint8 .*\[2, 3, 28, 28\]",
    }
    for path, reason in reasons.items():
        with pytest.raises(DataError, match=f"--features inception=FILE: {re.escape(str(path))}: .*{reason}") as raised:
            FileFeatures(path)
        assert raised.value.exit_code == 4
        for expected in ("inception-2015-12-05.pt", "pt_inception-2015-12-05-6726825d.pth"):
            assert expected in str(raised.value)


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match=r"trap\.pth"):
        FileFeatures(tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()


def test_the_error_for_images_of_2_channels_names_both_numbers(script: Path) -> None:
    with pytest.raises(DataError, match=r"--features .*\b2 channels\b.*\b1\b.*\b3\b"):
        FileFeatures(script)(torch.zeros(2, 2, 28, 28, dtype=torch.uint8))


def test_the_error_without_torch_fidelity_names_the_install_command(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(TrainingError, match="pip install torch-fidelity"):
        FileFeatures(weights)
