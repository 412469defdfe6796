"""An Inception network that the user supplies gives the features, whichever of the two known files it is in; every
other file is told. The weights here are random: the real ones cannot be had without a download."""

import sys
from pathlib import Path

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from torch import Tensor, nn

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import DataError
from ganctl.training.evaluation.cache import TensorCache
from ganctl.training.evaluation.evaluator import Evaluator
from ganctl.training.evaluation.inception import Inception, PackageMissingError


class Scripted(nn.Module):
    """What NVIDIA's network looks like from outside."""

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
    """Random weights of the right names and shapes, saved as torch-fidelity's are."""
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


def test_nvidias_file_is_called_as_its_own_programs_call_it(script: Path) -> None:
    images = digits(120)  # more than two chunks
    expected = torch.jit.load(str(script))(images.expand(-1, 3, -1, -1), return_features=True)
    found = Inception(script)(images)
    assert found.shape == (120, 2048)
    assert torch.allclose(found, expected.detach(), atol=1e-6)


def test_torch_fidelitys_weights_give_that_packages_features(weights: Path) -> None:
    network = fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
    )
    images = digits(3)
    (expected,) = network(images.expand(-1, 3, -1, -1))
    found = Inception(weights)(images)
    assert found.shape == (3, 2048)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_scores_are_in_its_features_and_labels_stay_the_classifiers(script: Path, tmp_path: Path) -> None:
    val = load_split(DataSettings(), "val")
    plain, inception = (
        Evaluator(DataSettings(), "test", num_images=200, features=features).score_images(
            val.images[:200], val.labels[:200]
        )
        for features in (None, Inception(script))
    )
    for name in ("fd", "fd_floor", "recall"):
        assert plain[name] != inception[name], name
    for name in ("label_accuracy", "class_balance", "inception_score"):
        assert plain[name] == inception[name], name


def test_what_is_kept_belongs_to_the_network(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = TensorCache(lambda text: None)
    other = scripted(Scripted(), tmp_path / "other.pt")
    for path in (None, script, other, script):
        Evaluator(DataSettings(), "test", num_images=100, features=Inception(path) if path else None, cache=store)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def cut(path: Path, target: Path) -> Path:
    content = path.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    return target


def test_files_that_are_no_such_network_are_told(script: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.pt").touch()
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "foreign.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    faults = {
        tmp_path / "absent.pt": "No such file",
        tmp_path: "Is a directory",
        tmp_path / "noise.pt": "neither TorchScript nor weights",
        tmp_path / "empty.pt": "neither TorchScript nor weights",
        cut(script, tmp_path / "cut.pt"): "neither TorchScript nor weights",
        cut(weights, tmp_path / "cut.pth"): "neither TorchScript nor weights",
        tmp_path / "foreign.pth": "of another network",
        tmp_path / "list.pth": "of another network",
        scripted(Scripted(1000), tmp_path / "narrow.pt"): r"\(2, 1000\) for two images, expected \(2, 2048\)",
        scripted(nn.Linear(3, 3), tmp_path / "linear.pt"): "cannot be called with uint8 images",
    }
    for path, fault in faults.items():
        with pytest.raises(DataError, match=fault) as raised:
            Inception(path)
        assert raised.value.exit_code == 4
        assert "--features inception=FILE" in str(raised.value)
        assert "inception-2015-12-05" in str(raised.value), "what is expected"


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match="neither TorchScript nor weights"):
        Inception(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_images_of_two_channels_are_refused(script: Path) -> None:
    with pytest.raises(DataError, match="images of 2 channels"):
        Inception(script)(torch.zeros(2, 2, 28, 28, dtype=torch.uint8))


def test_without_torch_fidelity_it_says_how_to_install_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(PackageMissingError, match="pip install torch-fidelity"):
        Inception(weights)
