"""The feature network of the scores: its weights, and how images of every size become features."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ganctl.training.checkpoint.format import weights_digest
from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import premultiply
from ganctl.training.data.datasets import load_split
from ganctl.training.evaluation.feature_network import (
    FEATURES,
    LABEL_FEATURES,
    Features,
    load_feature_network,
)
from ganctl.training.pretrained import FEATURES_FILE
from ganctl.training.pretrained.weights import DIGEST_KEY, read_tensors


def extract(images: Tensor) -> Features:
    return load_feature_network(torch.device("cpu")).extract(images)


def random_images(n: int, channels: int, size: int, width: int | None = None) -> Tensor:
    rng = torch.Generator().manual_seed(size)
    return torch.randint(256, (n, channels, size, width or size), dtype=torch.uint8, generator=rng)


def distance(a: Tensor, b: Tensor) -> float:
    """Mean distance between the features of one image in two versions."""
    return float((extract(a).image - extract(b).image).norm(dim=1).mean())


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_split(DataSettings(), "val").images[:40]


def test_the_packaged_weights_have_the_digest_of_their_metadata() -> None:
    weights, metadata = read_tensors(FEATURES_FILE)
    assert metadata[DIGEST_KEY] == weights_digest(weights)
    assert FEATURES_FILE.stat().st_size < 1_500_000
    loaded = load_feature_network(torch.device("cpu")).state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weight.float()) for name, weight in weights.items())


def test_there_are_112_image_features_and_768_label_features(digits: Tensor) -> None:
    features = extract(digits[:3])
    assert (FEATURES, LABEL_FEATURES) == (112, 768)
    assert (features.image.shape, features.label.shape) == ((3, 112), (3, 768))
    assert features.image.dtype == features.label.dtype == torch.float32


@pytest.mark.parametrize("size", [(16, 16), (30, 26), (64, 64), (128, 128)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_every_size_have_finite_features(channels: int, size: tuple[int, int]) -> None:
    features = extract(premultiply(random_images(2, channels, *size)))
    assert (features.image.shape, features.label.shape) == ((2, 112), (2, 768))
    assert features.image.isfinite().all()
    assert features.label.isfinite().all()


def test_gray_images_have_the_features_of_the_same_images_in_colors(digits: Tensor) -> None:
    torch.testing.assert_close(extract(digits[:5]), extract(digits[:5].expand(-1, 3, -1, -1)), rtol=0, atol=1e-4)


def test_the_features_of_an_image_do_not_depend_on_the_images_beside_it(digits: Tensor) -> None:
    together = extract(torch.cat([digits[:10], random_images(60, 1, 28)]))  # more than the network takes at once
    for i in (0, 9):
        alone = extract(digits[i : i + 1])
        torch.testing.assert_close(together.image[i], alone.image[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(together.label[i], alone.label[0], rtol=0, atol=1e-3)
    assert torch.equal(extract(digits[:10]).image, extract(digits[:10]).image)


def test_extraction_uses_no_random_numbers(digits: Tensor) -> None:
    before = torch.get_rng_state()
    load_feature_network.__wrapped__(torch.device("cpu")).extract(digits[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_transparent_images_have_the_features_of_the_images_on_white() -> None:
    images = random_images(6, 4, 32)
    images[:, :, 8:24] = images[:, :, 8:9, 8:9]  # stripes of one color and opacity
    pages = []
    for image in images.permute(0, 2, 3, 1).numpy():
        page = Image.new("RGBA", (32, 32), "white")
        page.alpha_composite(Image.fromarray(image, "RGBA"))
        pages.append(np.asarray(page.convert("RGB")))
    on_white = torch.from_numpy(np.stack(pages)).permute(0, 3, 1, 2)
    transparent = premultiply(images)
    assert distance(transparent, on_white) < 0.1 * distance(transparent[:, :3], on_white)


def test_invisible_noise_moves_the_features_little_and_blur_moves_them_much(digits: Tensor) -> None:
    noise = torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    noisy = (digits + noise).round().clamp(0, 255).to(torch.uint8)
    blurred = avg_pool2d(digits.float(), 3, stride=1, padding=1).to(torch.uint8)
    between_images = distance(digits, digits.roll(1, dims=0))
    assert distance(digits, noisy) < 0.25 * between_images
    assert distance(digits, blurred) > 0.5 * between_images
    assert distance(digits, blurred) > 3 * distance(digits, noisy)
