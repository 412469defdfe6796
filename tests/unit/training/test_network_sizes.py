"""The networks take every size and number of channels: they are built, trained for a step, and exported."""

import pytest
import torch

from ganctl.exports.formats import get_format
from ganctl.exports.formats.base import UnitRangeGenerator, example_inputs
from ganctl.exports.formats.onnx_rewrite import CoarseUpsampling, rewrite_upsampling
from ganctl.training.config.resolve import resolve
from ganctl.training.evaluation.network import Classifier, classify, spatial_positions
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step

SHAPES = [ImageShape(channels, size, size) for size in (16, 20, 48, 128) for channels in (1, 3, 4)]
QUICK_SHAPES = [ImageShape(1, 16, 16), ImageShape(3, 20, 20), ImageShape(1, 48, 48), ImageShape(4, 128, 128)]
PRESETS = ("conv", "residual", "lightning-basic-gan")
LABELS = pytest.mark.parametrize("classes", [3, None], ids=["labels", "no labels"])


def name(shape: object) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, ImageShape) else str(shape)


@LABELS
@pytest.mark.parametrize(
    ("preset", "shape"),
    # a linear layer to 128 × 128 × 4 has 67 million weights
    [
        pytest.param(preset, shape, marks=() if shape in QUICK_SHAPES else pytest.mark.soak)
        for preset in PRESETS
        for shape in SHAPES
        if preset != "lightning-basic-gan" or shape.size <= 128 * 128
    ],
    ids=name,
)
def test_networks_train_and_their_exported_generator_draws_the_same_images(
    preset: str, shape: ImageShape, classes: int | None
) -> None:
    conditional = f"model.conditional={'true' if classes else 'false'}"
    settings = ["model.base_channels=4", "loss.penalty_every=1", conditional]  # so the one step has penalties
    config, _ = resolve(preset=preset, assignments=settings, environment={})
    torch.manual_seed(0)
    generator = build_generator(config.model, shape, classes or 1)
    step = Step(config, generator, build_discriminator(config.model, shape, classes or 1), torch.device("cpu"))
    images = torch.randint(256, (4, *shape), dtype=torch.uint8)
    before = [weight.clone() for weight in generator.parameters()]
    step(images, torch.arange(4) % (classes or 1), step=0, progress=0.0)
    step.check(1)  # no NaN
    assert any((weight != old).any() for weight, old in zip(generator.parameters(), before, strict=True))

    ema = step.ema.eval()
    inputs = example_inputs(ema, 3)
    with torch.no_grad():
        expected = UnitRangeGenerator(ema)(*inputs)
        assert expected.shape == (3, *shape)
        torchscript = get_format("torchscript")
        exported = torchscript.load(torchscript.write(ema, {}))(*inputs)
        torch.testing.assert_close(exported, expected, rtol=0, atol=1e-5)
        rewritten = rewrite_upsampling(ema)
        assert any(isinstance(layer, CoarseUpsampling) for layer in rewritten.modules()) == (preset == "conv")
        torch.testing.assert_close(UnitRangeGenerator(rewritten)(*inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_the_scoring_classifier_takes_every_size(shape: ImageShape) -> None:
    classifier = Classifier(shape.channels, 5, spatial_positions(shape.height, shape.width)).eval()
    output = classify(classifier, torch.randint(256, (3, *shape), dtype=torch.uint8))
    assert output.features.shape == (3, 128)
    assert output.logits.shape == (3, 5)
