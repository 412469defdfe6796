"""MNIST and similar data sets: complete, split as documented; an error names the file that cannot be used."""

import gzip
import hashlib
import re
import shutil
from pathlib import Path

import pytest
import torch

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet, Split
from ganctl.training.data.datasets import data_digest, load_split
from ganctl.training.data.named import EMBEDDED
from ganctl.training.errors import DataError
from tests.unit.training.conftest import RegisterData

MNIST = DataSettings()
MNIST_DIGESTS: list[tuple[Split, str, str, str]] = [  # of images, of labels and of the set, as in the first version
    (
        "train",
        "fef66a1e07e7186605a90af31ece286f",
        "3d76237d31f3b49ce6b45a13a1428180",
        "d532055e040fb116b864103dba3723fe",
    ),
    ("val", "7317d87fb75fc5ca25d1d1f8c2abba19", "88419be706486751b0fb0a003b47c4f7", "035cdd685f6a245be3d2a5a5f2de242e"),
    (
        "test",
        "6d87418db22cc8025d05968bec9bd5c3",
        "2fd8de6bdb8d11780b4b96dc57847bcf",
        "b592774a5bba66604fd5d4c25145bd2a",
    ),
]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def copy_of_mnist(folder: Path) -> Path:
    shutil.copytree(EMBEDDED, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that PATH_DATASETS names."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("PATH_DATASETS", str(folder))
    return folder


def test_the_embedded_mnist_has_its_known_images_and_labels() -> None:
    train, val, test = (load_split(MNIST, split) for split in ("train", "val", "test"))
    assert [len(train), len(val), len(test)] == [55_000, 5_000, 10_000]
    assert train.images.dtype == torch.uint8
    assert train.shape == (1, 28, 28)
    counts = torch.bincount(train.labels) + torch.bincount(val.labels)
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize(("split", "images", "labels", "identity"), MNIST_DIGESTS)
def test_the_bits_of_mnist_never_change(split: Split, images: str, labels: str, identity: str) -> None:
    data = load_split(MNIST, split)
    assert (data.images.dtype, data.labels.dtype) == (torch.uint8, torch.int64)
    assert hashlib.sha256(data.images.numpy().data).hexdigest()[:32] == images
    assert hashlib.sha256(data.labels.numpy().data).hexdigest()[:32] == labels
    assert data.digest()[:32] == identity, "a run of an earlier version cannot be resumed"
    assert data.class_names == tuple("0123456789")


def test_training_and_validation_images_are_disjoint_parts_of_the_training_file() -> None:
    train, val = load_split(MNIST, "train"), load_split(MNIST, "val")
    digests = [{image.numpy().tobytes() for image in split.images} for split in (train, val)]
    assert not digests[0] & digests[1]
    shares = torch.bincount(val.labels) / len(val) - torch.bincount(train.labels) / len(train)
    assert shares.abs().max() < 0.013  # three standard deviations of a sample of 5,000


def test_path_datasets_may_hold_the_four_files_plain_or_packed(root: Path) -> None:
    packed = copy_of_mnist(root) / "t10k-labels-idx1-ubyte.gz"
    (root / "t10k-labels-idx1-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    digest = next(labels for split, _, labels, _ in MNIST_DIGESTS if split == "test")
    assert hashlib.sha256(load_split(MNIST, "test").labels.numpy().data).hexdigest()[:32] == digest


def test_the_files_of_path_datasets_are_used_rather_than_the_embedded_ones(root: Path) -> None:
    (root / "train-images-idx3-ubyte").write_bytes(b"not an image file")
    with pytest.raises(DataError, match=re.escape(str(root / "train-images-idx3-ubyte"))):
        load_split(MNIST, "train")


@pytest.mark.usefixtures("root")
def test_the_embedded_mnist_is_used_if_path_datasets_has_none() -> None:
    assert len(load_split(MNIST, "test")) == 10_000


def test_a_truncated_gzip_file_is_named_in_the_error(root: Path) -> None:
    file = copy_of_mnist(root) / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"/train-images-idx3-ubyte\.gz: .*\bgzip\b"):
        load_split(MNIST, "train")


def test_the_error_for_a_truncated_file_states_both_sizes(root: Path) -> None:
    file = copy_of_mnist(root) / "t10k-images-idx3-ubyte.gz"
    (root / "t10k-images-idx3-ubyte").write_bytes(gzip.decompress(file.read_bytes())[:-1])
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte: .*\b7,840,015\b.*\b7,840,016\b"):
        load_split(MNIST, "test")


def test_the_error_for_a_foreign_file_states_its_first_bytes(root: Path) -> None:
    (copy_of_mnist(root) / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\x89PNG and so on"))
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte\.gz: .*\b89504e47\b.*\b000008\b"):
        load_split(MNIST, "test")


def test_the_error_for_idx_files_of_another_data_set_states_both_shapes(root: Path) -> None:
    header = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in (5, 28, 28))
    (copy_of_mnist(root) / "t10k-images-idx3-ubyte").write_bytes(header + bytes(5 * 28 * 28))
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte: .*\b5 × 28 × 28\b.*\b10000 × 28 × 28\b.*\bmnist\b"):
        load_split(MNIST, "test")


def test_a_changed_pixel_is_detected(root: Path) -> None:
    file = copy_of_mnist(root) / "t10k-images-idx3-ubyte.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[5000] ^= 1
    file.write_bytes(gzip.compress(bytes(raw), 1))
    with pytest.raises(DataError, match=r"/t10k-images-idx3-ubyte\.gz: .*\bSHA-256\b"):
        load_split(MNIST, "test")


def test_the_error_for_an_absent_file_names_it_and_the_expected_files(root: Path) -> None:
    (copy_of_mnist(root) / "train-labels-idx1-ubyte.gz").unlink()
    message = rf"^data\.source = 'mnist': {root} .*\btrain-labels-idx1-ubyte\b.*\bt10k-images-idx3-ubyte\b"
    with pytest.raises(DataError, match=message):
        load_split(MNIST, "train")


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_the_error_of_a_failed_download_names_the_folder_and_the_files(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without a network, on any machine
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    if name == "fashion-mnist" and DEBIAN.exists():
        pytest.skip(f"{DEBIAN} exists, from which it is read")
    folder = rf"{re.escape(str(root))}/\w+/raw"
    message = rf"(?s)^data\.source = '{name}': .*{folder}\b.*\bt10k-images-idx3-ubyte\b"
    with pytest.raises(DataError, match=message) as raised:
        load_split(DataSettings(source=name), "train")
    assert raised.value.exit_code == 4
    assert list(root.iterdir()) == []


def test_path_datasets_that_is_a_file_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH_DATASETS", str(tmp_path / "file"))
    with pytest.raises(DataError, match=rf"^PATH_DATASETS: {tmp_path / 'file'} "):
        load_split(DataSettings(source="kmnist"), "train")


@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_path_datasets_and_from_torchvisions_folder_in_it(below: str, root: Path) -> None:
    copy_of_mnist(root / below)  # the format is the same, only the images differ
    data = load_split(DataSettings(source="fashion-mnist"), "val")
    assert data.images.equal(load_split(MNIST, "val").images)
    assert data.class_names[0] == "T-shirt/top"


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_is_read_from_debians_package() -> None:
    train = load_split(DataSettings(source="fashion-mnist"), "train")
    assert (len(train), train.shape) == (55_000, (1, 28, 28))


def black_images(register_data: RegisterData, labels: list[int], test_labels: list[int] | None = None) -> DataSettings:
    """Registers a data set of black images with these labels; returns its settings."""

    def black(settings: DataSettings, split: Split) -> ImageSet:
        chosen = torch.tensor(labels if split != "test" or test_labels is None else test_labels)
        return ImageSet(torch.zeros(len(chosen), 1, 28, 28, dtype=torch.uint8), chosen, ("a", "b"))

    register_data("black", black)
    return DataSettings(source="black")


def test_a_split_too_small_for_a_covariance_is_refused(register_data: RegisterData) -> None:
    settings = black_images(register_data, [0, 1], test_labels=[1])
    assert len(load_split(settings, "val")) == 2
    with pytest.raises(DataError, match=r"^data\.source = 'black', test\b.*\b1\b.*\b2\b"):
        load_split(settings, "test")


def test_the_same_images_with_other_labels_are_another_data_set(register_data: RegisterData) -> None:
    digests = [data_digest(black_images(register_data, labels)) for labels in ([0, 0, 1], [0, 0, 1], [0, 1, 1])]
    assert digests[0] == digests[1] != digests[2]
