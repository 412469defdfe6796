"""MNIST and similar data sets: complete, split as documented; an error names the file that cannot be used."""

import gzip
import re
import shutil
from pathlib import Path

import pytest
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import data_digest, load_split
from ganctl.training.data.mnist import EMBEDDED
from ganctl.training.errors import DataError
from tests.unit.training.conftest import RegisterData

MNIST = DataSettings()


def copy_of_mnist(folder: Path) -> Path:
    shutil.copytree(EMBEDDED, folder, dirs_exist_ok=True)
    return folder


def with_root(folder: Path, name: str = "mnist") -> DataSettings:
    return DataSettings.model_validate({"name": name, "root": folder})


def test_the_embedded_mnist_has_its_known_images_and_labels() -> None:
    train, val, test = (load_split(MNIST, split) for split in ("train", "val", "test"))
    assert [len(train), len(val), len(test)] == [55_000, 5_000, 10_000]
    assert train.images.dtype == torch.uint8
    assert train.shape == (1, 28, 28)
    counts = torch.bincount(train.labels) + torch.bincount(val.labels)
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_training_and_validation_images_are_disjoint_parts_of_the_training_file() -> None:
    train, val = load_split(MNIST, "train"), load_split(MNIST, "val")
    digests = [{image.numpy().tobytes() for image in split.images} for split in (train, val)]
    assert not digests[0] & digests[1]
    shares = torch.bincount(val.labels) / len(val) - torch.bincount(train.labels) / len(train)
    assert shares.abs().max() < 0.013  # three standard deviations of a sample of 5,000


def test_data_root_may_hold_the_four_files_plain_or_packed(tmp_path: Path) -> None:
    root = copy_of_mnist(tmp_path)
    packed = root / "t10k-labels-idx1-ubyte.gz"
    (root / "t10k-labels-idx1-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert torch.equal(load_split(with_root(root), "test").labels, load_split(MNIST, "test").labels)


def test_path_datasets_is_used_if_data_root_is_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"not an image file")
    monkeypatch.setenv("PATH_DATASETS", str(tmp_path))
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "train-images-idx3-ubyte"))):
        load_split(MNIST, "train")


def test_the_embedded_mnist_is_used_if_path_datasets_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_DATASETS", str(tmp_path))
    assert len(load_split(MNIST, "test")) == 10_000


def test_a_truncated_gzip_file_is_named_in_the_error(tmp_path: Path) -> None:
    file = copy_of_mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"/train-images-idx3-ubyte\.gz: .*\bgzip\b"):
        load_split(with_root(tmp_path), "train")


def test_the_error_for_a_truncated_file_states_both_sizes(tmp_path: Path) -> None:
    file = copy_of_mnist(tmp_path) / "t10k-images-idx3-ubyte.gz"
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(gzip.decompress(file.read_bytes())[:-1])
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte: .*\b7840015\b.*\b7840016\b"):
        load_split(with_root(tmp_path), "test")


def test_the_error_for_a_foreign_file_states_its_first_bytes(tmp_path: Path) -> None:
    (copy_of_mnist(tmp_path) / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\x89PNG and so on"))
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte\.gz: .*\b89504e47\b.*\b00000803\b"):
        load_split(with_root(tmp_path), "test")


def test_a_changed_pixel_is_detected(tmp_path: Path) -> None:
    file = copy_of_mnist(tmp_path) / "t10k-images-idx3-ubyte.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[5000] ^= 1
    file.write_bytes(gzip.compress(bytes(raw), 1))
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte\.gz: .*\bSHA-256\b"):
        load_split(with_root(tmp_path), "test")


def test_the_error_for_an_absent_file_names_it_and_the_expected_files(tmp_path: Path) -> None:
    (copy_of_mnist(tmp_path) / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"^data\.root: .*\btrain-labels-idx1-ubyte\b.*\bt10k-images-idx3-ubyte\b"):
        load_split(with_root(tmp_path), "train")


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "mnist"])
def test_the_error_of_a_failed_download_names_the_folder_and_the_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a network, on any machine
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    folder = rf"{re.escape(str(tmp_path))}/\w+/raw"
    with pytest.raises(DataError, match=rf"(?s)^data\.root: {name} .*{folder}\b.*\bt10k-images-idx3-ubyte\b") as raised:
        load_split(with_root(tmp_path, name), "train")
    assert raised.value.exit_code == 4


def test_fashion_mnist_is_read_from_torchvisions_layout(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    copy_of_mnist(raw)  # the format is the same, only the images differ
    images = load_split(with_root(tmp_path, "fashion-mnist"), "val")
    assert len(images) == 5_000
    assert images.class_names[0] == "T-shirt/top"


def black_images(register_data: RegisterData, labels: list[int], test_labels: list[int] | None = None) -> DataSettings:
    """Registers a data set of black images with these labels; returns its settings."""

    def black(settings: DataSettings, split: Split) -> ImageSet:
        chosen = torch.tensor(labels if split != "test" or test_labels is None else test_labels)
        return ImageSet(torch.zeros(len(chosen), 1, 28, 28, dtype=torch.uint8), chosen, ("a", "b"))

    register_data("black", black)
    return DataSettings(name="black")


def test_a_split_too_small_for_a_covariance_is_refused(register_data: RegisterData) -> None:
    settings = black_images(register_data, [0, 1], test_labels=[1])
    assert len(load_split(settings, "val")) == 2
    with pytest.raises(DataError, match=r"^data\.name = 'black', test\b.*\b1\b.*\b2\b"):
        load_split(settings, "test")


def test_the_same_images_with_other_labels_are_another_data_set(register_data: RegisterData) -> None:
    digests = [data_digest(black_images(register_data, labels)) for labels in ([0, 0, 1], [0, 0, 1], [0, 1, 1])]
    assert digests[0] == digests[1] != digests[2]
