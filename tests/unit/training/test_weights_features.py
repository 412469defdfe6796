"""Features of files of weights: Inception of two kinds and DINOv2, recognized by the names of the tensors.

The networks here have random weights: the real ones need a download.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, layer_norm
from torchvision.models import Inception3

from ganctl.training.errors import DataError, TrainingError
from ganctl.training.evaluation.feature_files import FileFeatures

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
WIDTH, DEPTH, HEADS = 128, 2, 2
Weights = dict[str, Tensor]


def noise(n: int, size: int = 28) -> Tensor:
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalized(images: Tensor, size: int) -> Tensor:
    resized = interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)
    return (resized / 255 - MEAN) / STD


def initialize(network: nn.Module) -> nn.Module:
    """Draws weights that keep the scale of the values from layer to layer: with others, all images get about 0."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return network


@pytest.fixture(scope="module")
def fidelity_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves random weights with the names and shapes of torch-fidelity's file."""
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(initialize(network).state_dict(), path)
    return path


@pytest.mark.soak
def test_torch_fidelitys_weights_give_the_features_of_torch_fidelity(fidelity_weights: Path, tmp_path: Path) -> None:
    network = fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(fidelity_weights)
    )
    safe = tmp_path / "inception.safetensors"
    safetensors.torch.save_file(network.state_dict(), safe)
    (expected,) = network(noise(2))
    for path in (fidelity_weights, safe):
        assert torch.allclose(FileFeatures(path)(noise(2)), expected, rtol=1e-3, atol=1e-4), path


def test_the_error_without_torch_fidelity_names_the_install_command(
    fidelity_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(TrainingError, match="pip install torch-fidelity"):
        FileFeatures(fidelity_weights)


def test_torchvisions_inception_v3_gives_what_its_last_layer_gets(tmp_path: Path) -> None:
    network = Inception3(transform_input=True, init_weights=False).eval()  # as with torchvision's own weights
    initialize(network)
    torch.save(network.state_dict(), tmp_path / "inception_v3_google-0cc3c7bd.pth")
    network.fc = nn.Identity()
    images = noise(2)
    with torch.no_grad():
        expected = network(normalized(images, 299))
    features = FileFeatures(tmp_path / "inception_v3_google-0cc3c7bd.pth")(images)
    assert features.shape == (2, 2048)
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-4)


def random_dinov2(grid: int, registers: int) -> Weights:
    """Weights of a small DINOv2 with the names of facebookresearch/dinov2."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, grid**2 + 1, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    shapes |= {"register_tokens": (1, registers, WIDTH)} if registers else {}
    for index in range(DEPTH):
        layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "norm1": (WIDTH,), "norm2": (WIDTH,)}
        layers |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for name, shape in layers.items():
            shapes |= {f"blocks.{index}.{name}.weight": shape, f"blocks.{index}.{name}.bias": shape[:1]}
        shapes |= {f"blocks.{index}.ls{i}.gamma": (WIDTH,) for i in (1, 2)}
    rng = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def as_timm(weights: Weights) -> Weights:
    """Renames as timm does: with registers, the position of the class token is added to that token."""
    renamed = {name: tensor for name, tensor in weights.items() if name != "mask_token"}
    if "register_tokens" in renamed:
        renamed["reg_token"] = renamed.pop("register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:].contiguous()
    return renamed


def as_hugging_face(weights: Weights, prefix: str = "") -> Weights:
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "pos_embed": "embeddings.position_embeddings",
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "blocks.": "encoder.layer.",
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    renamed = {}
    for name, tensor in weights.items():
        name = re.sub("^norm", "layernorm", name)
        for old, new in names.items():
            name = name.replace(old, new)
        parts = {part: f"attention.attention.{part}" for part in ("query", "key", "value")} if "qkv" in name else {}
        for (_, new), value in zip(parts.items(), tensor.chunk(3), strict=bool(parts)):
            renamed[prefix + name.replace("attn.qkv", new)] = value.contiguous()
        if not parts:
            renamed[prefix + name] = tensor
    return renamed


def as_classifier(weights: Weights) -> Weights:
    return as_hugging_face(weights, "dinov2.") | {"classifier.weight": torch.zeros(10, 2 * WIDTH)}


def dinov2_class_token(weights: Weights, images: Tensor) -> Tensor:
    """The class token by modules of torch, for weights with the names of facebookresearch/dinov2."""
    patches = nn.functional.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], 14)
    positions, grid = weights["pos_embed"], round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    if grid != 16:
        plane = positions[:, 1:].reshape(1, grid, grid, WIDTH).permute(0, 3, 1, 2)
        if "register_tokens" in weights:
            plane = interpolate(plane, size=(16, 16), mode="bicubic", antialias=True)
        else:
            plane = interpolate(plane, scale_factor=(16.1 / grid, 16.1 / grid), mode="bicubic")
        positions = torch.cat([positions[:, :1], plane.permute(0, 2, 3, 1).reshape(1, 256, WIDTH)], dim=1)
    x = torch.cat([weights["cls_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + positions
    if "register_tokens" in weights:
        x = torch.cat([x[:, :1], weights["register_tokens"].expand(len(images), -1, -1), x[:, 1:]], dim=1)

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for block in (f"blocks.{index}" for index in range(DEPTH)):
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
        attention.load_state_dict(
            {
                "in_proj_weight": weights[f"{block}.attn.qkv.weight"],
                "in_proj_bias": weights[f"{block}.attn.qkv.bias"],
                "out_proj.weight": weights[f"{block}.attn.proj.weight"],
                "out_proj.bias": weights[f"{block}.attn.proj.bias"],
            }
        )
        y = norm(x, f"{block}.norm1")
        x = x + weights[f"{block}.ls1.gamma"] * attention(y, y, y, need_weights=False)[0]
        y = linear(gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + weights[f"{block}.ls2.gamma"] * y
    return norm(x, "norm")[:, 0]


@pytest.mark.parametrize("rename", [dict, as_timm, as_hugging_face, as_classifier])
@pytest.mark.parametrize(("grid", "registers"), [(16, 0), (37, 0), (37, 4)])
def test_dinov2_gives_its_class_token_by_the_names_of_three_libraries(
    rename: Callable[[Weights], Weights], grid: int, registers: int, tmp_path: Path
) -> None:
    weights = random_dinov2(grid, registers)
    safetensors.torch.save_file(rename(weights), tmp_path / "dinov2.safetensors")
    lines: list[str] = []
    images = noise(3)
    features = FileFeatures(tmp_path / "dinov2.safetensors", lines.append)(images)
    with torch.no_grad():
        expected = dinov2_class_token(weights, normalized(images, 224))
    assert features.shape == (3, WIDTH)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert re.search(r"DINOv2 with 2 blocks of 128 channels" + (".*4 registers" if registers else ", 128"), lines[0])


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_dinov2_equals_that_of_timm(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed; other tests compare with modules of torch")
    network = timm.create_model(name, num_classes=0, img_size=224).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
        expected = network(normalized(noise(2), 224))
    torch.save(network.state_dict(), tmp_path / "dinov2.pth")
    assert torch.allclose(FileFeatures(tmp_path / "dinov2.pth")(noise(2)), expected, rtol=1e-4, atol=1e-4)


def test_weights_in_half_precision_are_computed_in_single_precision(tmp_path: Path) -> None:
    weights = {name: tensor.half() for name, tensor in random_dinov2(16, 0).items()}
    torch.save(weights, tmp_path / "half.pth")
    torch.save({name: tensor.float() for name, tensor in weights.items()}, tmp_path / "single.pth")
    half, single = (FileFeatures(tmp_path / f"{name}.pth")(noise(2)) for name in ("half", "single"))
    assert torch.equal(half, single)


def test_the_error_names_file_finding_and_expectation(fidelity_weights: Path, tmp_path: Path) -> None:
    content = fidelity_weights.read_bytes()
    (tmp_path / "truncated.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)) * 40)
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "foreign.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    good = random_dinov2(16, 0)
    plain = {name: tensor for name, tensor in good.items() if ".ls" not in name}
    lacking = {name: tensor for name, tensor in good.items() if name != "blocks.1.mlp.fc2.bias"}
    wide = good | {"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 16, 16)}
    for name, weights in {"plain": plain, "lacking": lacking, "wide": wide}.items():
        safetensors.torch.save_file(weights, tmp_path / f"{name}.safetensors")
    reasons = {
        "truncated.pth": "neither TorchScript nor weights",
        "noise.safetensors": "damaged safetensors",
        "foreign.pth": r"1 tensors of another network \(fc\.weight\)",
        "list.pth": "list",
        "plain.safetensors": r"tensors of another network \(blocks\.0\.attn",
        "lacking.safetensors": r"Missing key.*blocks\.1\.mlp\.fc2\.bias",
        "wide.safetensors": r"patches of \[16, 16\] pixels",
    }
    for name, reason in reasons.items():
        path = re.escape(str(tmp_path / name))
        with pytest.raises(DataError, match=f"--features FILE: {path}: .*{reason}.*expected .*"):
            FileFeatures(tmp_path / name)


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match=r"trap\.pth"):
        FileFeatures(tmp_path / "trap.pth")
    assert not (tmp_path / "executed").exists()
