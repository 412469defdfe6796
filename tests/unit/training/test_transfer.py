"""Networks for other classes, channels and sizes begin as the networks whose weights they take."""

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ganctl.training.config.schema import ModelSettings
from ganctl.training.images.source import GeneratorSource
from ganctl.training.models.base import Discriminator, Generator, ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.models.image_axes import ImageDomain
from ganctl.training.models.transfer import TransferReport, transfer
from ganctl.training.pretrained.projection import load_projection

DIGITS = tuple("0123456789")
GRAY = ImageDomain(ImageShape(1, 28, 28), DIGITS)
EMOJI = ImageDomain(ImageShape(4, 64, 64), ("food", "7", "flags"))
UNLABELED = ImageDomain(ImageShape(3, 32, 40), ())
WITHOUT_CLASSES = ImageDomain(GRAY.shape, ())
FAMILIES: dict[str, dict[str, object]] = {
    "conv": {"base_channels": 8},
    "conv with an embedded label": {"base_channels": 8, "conditioning": "embedding"},
    "mlp": {"generator": "mlp", "discriminator": "mlp"},
    "mlp with projection": {"generator": "mlp", "discriminator": "mlp", "conditioning": "projection"},
}
RESIDUAL: dict[str, object] = {"generator": "residual", "discriminator": "projected", "base_channels": 4}
Pair = tuple[Generator, nn.Module]


def pair(domain: ImageDomain, settings: Mapping[str, object], *, seed: int = 0) -> Pair:
    """A generator and a discriminator with random weights; all biases differ from 0."""
    torch.manual_seed(seed)
    model = ModelSettings.model_validate({"conditional": bool(domain.class_names), **settings})
    classes = max(1, len(domain.class_names))
    return build_generator(model, domain.shape, classes).eval(), build_discriminator(model, domain.shape, classes)


def fitted(old: ImageDomain, new: ImageDomain, **settings: object) -> tuple[Pair, Pair, TransferReport]:
    """A pair of networks for `old`, one for `new` with its weights, and the report."""
    source, target = pair(old, settings), pair(new, settings, seed=1)
    transfers = {}
    for name, network, trained in zip(("generator", "discriminator"), target, source, strict=True):
        transfers[name] = transfer(network, trained.state_dict(), old, new)
        network.load_state_dict(transfers[name].state)
    return source, target, TransferReport(transfers, old, new)


def with_shape(domain: ImageDomain, channels: int, height: int = 28, width: int = 28) -> ImageDomain:
    return domain._replace(shape=ImageShape(channels, height, width))


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_for_the_same_images_are_copied_bit_for_bit(family: str) -> None:
    source, target, report = fitted(GRAY, GRAY, **FAMILIES[family])
    for old, new in zip(source, target, strict=True):
        for name, tensor in old.state_dict().items():
            assert torch.equal(new.state_dict()[name], tensor), name
    names = report.names()
    assert report.share == 1
    assert names["adapted"] == names["new"] == names["unused"] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("old", "new"), [(GRAY, EMOJI), (EMOJI, GRAY), (GRAY, UNLABELED), (UNLABELED, GRAY)])
def test_every_tensor_finds_a_source_unless_one_of_the_networks_lacks_the_label(
    family: str, old: ImageDomain, new: ImageDomain
) -> None:
    _, (generator, discriminator), report = fitted(old, new, **FAMILIES[family])
    labels = (torch.zeros(2, dtype=torch.int64),) if new.class_names else ()
    images = generator(torch.randn(2, generator.latent_dim), *labels)
    assert discriminator(images, *labels).isfinite().all()
    parts = ("embedding", "projection", "classifier", "latent")  # a discriminator with an embedding predicts no latent
    others = [name for kind in ("new", "unused") for name in report.names()[kind]]
    assert all(name.split(".")[1] in parts for name in others), others
    if old.class_names and new.class_names:
        assert others == []


def test_a_class_keeps_its_weights_by_name_and_a_new_class_starts_as_the_mean_of_all() -> None:
    new = GRAY._replace(class_names=("9", "letter", "0"))
    source, target, report = fitted(GRAY, new, **FAMILIES["conv"])
    for network, name in (
        (0, "embedding.weight"),
        (1, "projection.weight"),
        (1, "classifier.weight"),
        (1, "classifier.bias"),
    ):
        old_rows, rows = source[network].state_dict()[name], target[network].state_dict()[name]
        assert torch.equal(rows[[0, 2]], old_rows[[9, 0]]), name
        assert torch.allclose(rows[1], old_rows.mean(dim=0)), name
    assert any("from 10 to 3 classes (2 of the same name): generator.embedding" in line for line in report.lines())


def test_classes_of_equal_number_and_other_order_are_matched_by_name() -> None:
    new = GRAY._replace(class_names=DIGITS[::-1])
    (old_generator, old_discriminator), (generator, discriminator), _ = fitted(GRAY, new, **FAMILIES["conv"])
    z, labels = torch.randn(10, old_generator.latent_dim), torch.arange(10)
    images = old_generator(z, labels)
    assert torch.equal(generator(z, 9 - labels), images)
    assert torch.equal(discriminator(images, 9 - labels), old_discriminator(images, labels))


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_for_colors_draw_and_judge_gray_images_as_the_networks_for_gray(family: str) -> None:
    source, target, _ = fitted(GRAY, with_shape(GRAY, 3), **FAMILIES[family])
    z, labels = torch.randn(6, source[0].latent_dim), torch.arange(6)
    images = source[0](z, labels)
    assert torch.allclose(target[0](z, labels), images.expand(-1, 3, -1, -1), atol=1e-6)
    noise = torch.rand_like(images)
    assert torch.allclose(target[1](noise.expand(-1, 3, -1, -1), labels), source[1](noise, labels), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_discriminator_for_gray_judges_as_the_one_for_colors_does_gray_images(family: str) -> None:
    source, target, _ = fitted(with_shape(GRAY, 3), GRAY, **FAMILIES[family])
    labels, noise = torch.arange(6), torch.rand(6, 1, 28, 28)
    assert torch.allclose(target[1](noise, labels), source[1](noise.expand(-1, 3, -1, -1), labels), atol=1e-5)


def test_a_generator_for_gray_draws_the_mean_of_the_colors_before_its_last_activation() -> None:
    source, target, _ = fitted(with_shape(GRAY, 3), GRAY, **FAMILIES["mlp"])
    z, labels = torch.randn(6, source[0].latent_dim), torch.arange(6)
    expected = source[0](z, labels).double().atanh().mean(dim=1, keepdim=True)
    assert torch.allclose(target[0](z, labels).double().atanh(), expected, atol=1e-4)


def test_images_without_alpha_are_judged_as_opaque_ones_and_new_alpha_keeps_new_weights() -> None:
    rgba, rgb = with_shape(GRAY, 4), with_shape(GRAY, 3)
    source, target, _ = fitted(rgba, rgb, **FAMILIES["mlp with projection"])
    labels, noise = torch.arange(6), torch.rand(6, 3, 28, 28)
    opaque = torch.cat([noise, torch.ones(6, 1, 28, 28)], dim=1)
    assert torch.allclose(target[1](noise, labels), source[1](opaque, labels), atol=1e-4)

    (old, _), (generator, _), _ = fitted(rgb, rgba, **FAMILIES["conv"])
    fresh = pair(rgba, FAMILIES["conv"], seed=1)[0].state_dict()["net.5.weight"]
    weight, before = generator.state_dict()["net.5.weight"], old.state_dict()["net.5.weight"]
    assert torch.equal(weight[:12], before)
    assert torch.equal(weight[12:], fresh[12:])


def test_a_larger_generator_interpolates_the_grid_on_which_its_convolutions_start() -> None:
    (old, _), (new, _), _ = fitted(GRAY, with_shape(GRAY, 1, 56, 64), **FAMILIES["conv"])
    assert isinstance(old.net, nn.Sequential)
    assert isinstance(new.net, nn.Sequential)
    hidden = torch.randn(3, 64 + 32 + 256)
    small, large = (net[2](net[0](hidden)) for net in (old.net, new.net))
    assert torch.allclose(large, interpolate(small, (14, 16), mode="bilinear", antialias=True), atol=1e-5)


@pytest.mark.parametrize("size", [(56, 64), (20, 16)])
def test_a_discriminator_for_other_sizes_reads_its_last_grid_as_if_resized(
    size: tuple[int, int],
) -> None:
    (_, old), (_, new), _ = fitted(GRAY, with_shape(GRAY, 1, *size), **FAMILIES["conv"])
    assert isinstance(old, Discriminator)
    assert isinstance(new, Discriminator)
    grid = torch.randn(3, 16, size[0] // 4, size[1] // 4)
    resized = interpolate(grid, (7, 7), mode="bilinear", antialias=True)
    assert torch.allclose(new.features[5:](grid), old.features[5:](resized), atol=1e-5)


@pytest.mark.parametrize("family", ["conv", "mlp", "mlp with projection"])
def test_an_unconditional_pair_draws_and_judges_as_the_conditional_one_for_the_mean_class(family: str) -> None:
    source, target, report = fitted(GRAY, ImageDomain(GRAY.shape, ()), **FAMILIES[family])
    z = torch.randn(20, source[0].latent_dim)
    mixed = GeneratorSource(source[0], DIGITS).generate_mixed(z, torch.full((20, 10), 0.1))
    images = GeneratorSource(target[0], ()).generate(z, torch.zeros(20, dtype=torch.int64))
    assert (images.int() - mixed.int()).abs().max() <= 1
    if family != "mlp":  # one in which the label is multiplied with the features
        noise = torch.rand(4, 1, 28, 28)
        logits = torch.stack([source[1](noise, torch.full((4,), label)) for label in range(10)])
        assert torch.allclose(target[1](noise), logits.mean(dim=0), atol=1e-5)
    assert any(line.startswith("left out: ") and "generator.embedding" in line for line in report.lines())


@pytest.mark.parametrize("family", ["conv", "mlp"])
def test_a_conditional_generator_starts_as_the_unconditional_one_apart_from_its_labels(family: str) -> None:
    source, target, report = fitted(ImageDomain(GRAY.shape, ()), GRAY, **FAMILIES[family])
    nn.init.zeros_(target[0].get_parameter("embedding.weight"))
    z = torch.randn(6, source[0].latent_dim)
    assert torch.allclose(target[0](z, torch.arange(6)), source[0](z), atol=1e-6)
    assert any(line.startswith("new: generator.embedding") for line in report.lines())


def test_spectral_normalization_fits_the_adapted_weights_and_may_be_new() -> None:
    _, (_, discriminator), _ = fitted(GRAY, EMOJI, spectral_norm=True, **FAMILIES["conv"])
    plain = pair(GRAY, FAMILIES["conv"])[1].state_dict()
    normalized = pair(EMOJI, {**FAMILIES["conv"], "spectral_norm": True}, seed=1)[1]
    result = transfer(normalized, plain, GRAY, EMOJI)
    assert result.new == result.unused == []
    normalized.load_state_dict(result.state)
    for network in (discriminator, normalized):
        network.eval()
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
                norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
                assert norm.item() == pytest.approx(1, abs=0.15)


def test_a_normalized_discriminator_without_labels_judges_as_the_one_with_labels_for_the_mean_class() -> None:
    """Each weight counts as it computes, not as it is stored: spectral normalization divides it by its norm."""
    settings = {"spectral_norm": True, **FAMILIES["conv"]}
    source, target = (pair(domain, settings, seed=seed)[1] for seed, domain in enumerate((GRAY, WITHOUT_CLASSES)))
    with torch.no_grad():
        source.get_parameter("logit.parametrizations.weight.original").mul_(5)
    noise = torch.rand(64, 1, 28, 28)
    for _ in range(30):  # fits the vectors of the normalization
        source(noise, torch.zeros(64, dtype=torch.int64))
    result = transfer(target, source.state_dict(), GRAY, WITHOUT_CLASSES)
    target.load_state_dict(result.state)
    source.eval()
    target.eval()
    mean = torch.stack([source(noise, torch.full((64,), label)) for label in range(10)]).mean(dim=0)
    logits = target(noise)
    assert torch.corrcoef(torch.stack([logits, mean]))[0, 1] > 0.999


@pytest.mark.parametrize(("old", "new"), [(0, 1), (2, 0), (1, 2)])
def test_networks_of_another_depth_differ_in_the_further_layers_alone(old: int, new: int) -> None:
    source, target = (
        pair(GRAY, {"base_channels": 8, "generator_depth": depth, "discriminator_depth": depth}, seed=depth)
        for depth in (old, new)
    )
    for network, trained in zip(target, source, strict=True):
        result = transfer(network, trained.state_dict(), GRAY, GRAY)
        names = result.new if new > old else result.unused
        assert names
        assert all(".further" in f".{name}" for name in names), names
        assert (result.unused if new > old else result.new) == []


def test_layers_of_another_width_are_new_together_with_their_biases() -> None:
    old, new = pair(GRAY, {"base_channels": 8})[0], pair(EMOJI, {"base_channels": 32}, seed=1)[0]
    result = transfer(new, old.state_dict(), GRAY, EMOJI)
    assert result.new == [f"net.{layer}.{kind}" for layer in (0, 3, 5) for kind in ("weight", "bias")]
    for name in result.new:
        assert torch.equal(result.state[name], new.state_dict()[name])
    assert 0 < result.weights < 0.5 * result.size


def test_networks_of_another_family_share_almost_no_weights() -> None:
    for name, other in (("conv", "mlp"), ("mlp", "conv")):
        source, target = pair(GRAY, FAMILIES[name]), pair(GRAY, FAMILIES[other], seed=1)
        results = [transfer(n, s.state_dict(), GRAY, GRAY) for n, s in zip(target, source, strict=True)]
        assert sum(each.weights for each in results) < 0.01 * sum(each.size for each in results)


def test_a_transfer_changes_neither_network_nor_the_random_state_and_repeats_bit_for_bit() -> None:
    old, new = pair(GRAY, FAMILIES["conv"])[0], pair(EMOJI, FAMILIES["conv"], seed=1)[0]
    before, random = [copy.deepcopy(network.state_dict()) for network in (old, new)], torch.get_rng_state()
    first, second = (transfer(new, old.state_dict(), GRAY, EMOJI) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random)
    for state, network in zip(before, (old, new), strict=True):
        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())


def judge(discriminator: nn.Module, images: Tensor, *labels: Tensor) -> Tensor:
    """Logits of a projected discriminator."""
    logits: Tensor = discriminator(load_projection(torch.device("cpu"), torch.float32)(images), *labels)
    return logits


def test_residual_networks_for_other_classes_of_the_same_size_are_taken_whole() -> None:
    new = GRAY._replace(class_names=("9", "letter", "0"))
    source, target, report = fitted(GRAY, new, **RESIDUAL)
    names = report.names()
    assert names["new"] == names["unused"] == []
    assert {name.split(".", 1)[1] for name in names["adapted"]} == {
        "embedding.weight", "projection.weight", "classifier.weight", "classifier.bias"
    }  # fmt: skip
    z = torch.randn(2, source[0].latent_dim)
    old_labels, labels = torch.tensor([9, 0]), torch.tensor([0, 2])
    images = source[0](z, old_labels)
    assert torch.equal(target[0](z, labels), images)
    assert torch.equal(judge(target[1], images, labels), judge(source[1], images, old_labels))
    fitted_again = fitted(GRAY, GRAY, **RESIDUAL)[2]
    assert fitted_again.share == 1
    assert fitted_again.names()["adapted"] == []


@pytest.mark.parametrize("channels", [3, 4])
def test_residual_networks_for_colors_draw_and_judge_gray_images_as_the_networks_for_gray(channels: int) -> None:
    source, target, report = fitted(GRAY, with_shape(GRAY, channels), **RESIDUAL)
    names = report.names()
    color_layers = ("generator.output", "discriminator.features.0.heads.0.0")  # the only ones that see colors
    expected = [f"{layer}.{kind}" for layer in color_layers for kind in ("weight", "bias")]
    assert names["adapted"] == expected
    assert names["new"] == names["unused"] == []
    z, labels = torch.randn(6, source[0].latent_dim), torch.arange(6)
    gray = source[0](z, labels)
    images = gray.expand(-1, 3, -1, -1)
    assert torch.allclose(target[0](z, labels)[:, :3], images, atol=1e-6)
    if channels == 3:  # the weights of alpha have no source
        assert torch.allclose(judge(target[1], images, labels), judge(source[1], gray, labels), atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "blocks"),
    # height; the last blocks of both networks have the same channels
    [(32, 64, {"0", "1"}), (64, 32, {"0", "1"}), (28, 64, {"0"}), (32, 128, {"0", "1"}), (64, 128, {"0", "1", "2"})],
)
def test_residual_networks_for_other_sizes_take_the_last_blocks(old: int, new: int, blocks: set[str]) -> None:
    source, target, report = fitted(with_shape(GRAY, 3, old, old), with_shape(GRAY, 3, new, new), **RESIDUAL)
    names = report.names()
    assert not [name for name in names["adapted"] if name.startswith("generator.blocks")]
    for network in ("generator.style", "generator.output", "generator.norm", "generator.embedding"):
        assert not [name for name in names["new"] if name.startswith(network)]
    taken = {name for name in names["copied"] if name.startswith("generator.blocks")}
    assert {name.split(".")[2] for name in taken} == blocks
    # the first block of the smaller network follows other channels
    later = [name for name in taken if name.endswith("convolutions.0.weight")]
    assert len(later) == len(blocks)
    for name in later:
        key = name.removeprefix("generator.")
        assert torch.equal(target[0].state_dict()[key], source[0].state_dict()[key])
    z, labels = torch.randn(2, source[0].latent_dim), torch.arange(2)
    assert judge(target[1], target[0](z, labels), labels).isfinite().all()


def test_a_residual_generator_whose_start_grows_with_the_image_interpolates_it() -> None:
    (old, _), (new, _), report = fitted(with_shape(GRAY, 1, 32, 32), with_shape(GRAY, 1, 48, 40), **RESIDUAL)
    assert "generator.start.0.weight" in report.names()["adapted"]
    inputs = torch.randn(3, 64 + 64)
    small, large = (network.get_submodule("start")(inputs) for network in (old, new))
    assert torch.allclose(large, interpolate(small, (6, 5), mode="bilinear", antialias=True), atol=1e-5)


def test_a_projected_discriminator_keeps_the_heads_of_pretrained_maps_for_other_sizes() -> None:
    for size in (16, 48, 64):  # small images are enlarged to 48 pixels
        source, target, _ = fitted(GRAY, with_shape(GRAY, 3, size, size), **RESIDUAL)
        kept = {name: x for name, x in source[1].state_dict().items() if not name.startswith("features.0.heads.0.")}
        assert any(name.startswith("features.0.heads.3.") for name in kept)
        for name, tensor in kept.items():
            assert torch.equal(target[1].state_dict()[name], tensor), name


def test_an_unconditional_residual_pair_draws_and_judges_as_the_conditional_one_for_the_mean_class() -> None:
    source, target, _ = fitted(GRAY, ImageDomain(GRAY.shape, ()), **RESIDUAL)
    z = torch.randn(20, source[0].latent_dim)
    mixed = GeneratorSource(source[0], DIGITS).generate_mixed(z, torch.full((20, 10), 0.1))
    images = GeneratorSource(target[0], ()).generate(z, torch.zeros(20, dtype=torch.int64))
    assert (images.int() - mixed.int()).abs().max() <= 1
    noise = torch.rand(4, 1, 28, 28)
    logits = torch.stack([judge(source[1], noise, torch.full((4,), label)) for label in range(10)])
    assert torch.allclose(judge(target[1], noise), logits.mean(dim=0), atol=1e-4)


def test_a_conditional_residual_generator_starts_as_the_unconditional_one_apart_from_its_labels() -> None:
    source, target, report = fitted(ImageDomain(GRAY.shape, ()), GRAY, **RESIDUAL)
    nn.init.zeros_(target[0].get_parameter("embedding.weight"))
    z = torch.randn(6, source[0].latent_dim)
    assert torch.allclose(target[0](z, torch.arange(6)), source[0](z), atol=1e-6)
    assert {name.split(".")[1] for name in report.names()["new"]} == {"embedding", "projection", "classifier"}


class Residual(Generator):
    """A generator of another family: an own grid, colors at the end of a branch, a label in every block."""

    def __init__(self, shape: ImageShape, classes: int) -> None:
        super().__init__(16, classes, shape)
        self.start = nn.Linear(16, 8 * 16)
        self.unflatten = nn.Unflatten(1, (8, 4, 4))
        self.scale = nn.Embedding(classes, 8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.to_colors = nn.ModuleList(nn.Conv2d(8, shape.channels, 1) for _ in range(2))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x: Tensor = self.unflatten(self.start(z)) * self.scale(label)[:, :, None, None]
        images = self.to_colors[0](x) + self.to_colors[1](self.body(x))
        return interpolate(images, self.shape[1:]).tanh()


def test_the_rules_cover_a_custom_generator_with_several_layers_for_colors_and_labels() -> None:
    old, new = Residual(GRAY.shape, 10), Residual(EMOJI.shape, 3)
    result = transfer(new, old.state_dict(), GRAY, EMOJI)
    assert result.new == []
    colors = [f"to_colors.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")]
    assert result.adapted == {"scale.weight": {"classes"}, **{name: {"colors"} for name in colors}}
