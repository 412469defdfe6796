"""Model card of an export: a Markdown file with the images, the scores and an example of use."""

from collections.abc import Mapping
from typing import Any

_ALPHA = "The channels are red, green, blue and alpha. The colors are not multiplied with alpha, as in a PNG file.\n\n"


def model_card(manifest: Mapping[str, Any]) -> str:
    """Renders the fields of a manifest as Markdown."""
    checkpoint, metrics = manifest["checkpoint"], manifest["checkpoint"]["metrics"]
    image = manifest["image"]
    size = f"{image['channels']}, {image['height']}, {image['width']}"
    scores = [
        ("Fréchet distance", metrics.get("fd")),
        ("floor (real images)", metrics.get("fd_floor")),
        ("KID", metrics.get("kid")),
        ("standard error of KID", metrics.get("kid_se")),
        ("label accuracy", metrics.get("label_accuracy")),
        ("accuracy of the classifier that reads the labels, on held-out images", metrics.get("scorer_accuracy")),
    ]
    rows = [f"| {name} | {value:.4f} |" for name, value in scores if value is not None]
    head = f"| score on the validation split ({metrics.get('num_images', '–')} images) | |"
    measure = f"Measure {metrics.get('measure', 1)} of ganctl; scores of different measures cannot be compared."
    table = "\n".join([head, "| --- | --- |", *rows, "", measure]) if rows else "No scores."
    table += f"\n\nNo summary: {metrics['no_summary']}." if metrics.get("no_summary") else ""
    parity = "\n".join(f"| `{name}` | {max(sizes.values()):.1e} |" for name, sizes in manifest["parity"].items())
    names = manifest["class_names"]
    batch = len(names) if manifest["conditional"] else 10
    feed = '{"z": z, "label": label}' if manifest["conditional"] else '{"z": z}'
    listed = ", ".join(map(repr, names))  # repr: the name of a class folder may contain a line break
    label = f"label = np.arange({batch})  # the classes, in this order: {listed}\n" if manifest["conditional"] else ""
    alpha = _ALPHA if image["channels"] == 4 else ""
    return f"""# Generator {manifest["model_version"]}

Draws {image["channels"]} × {image["height"]} × {image["width"]} images like those of `{manifest["data"]}`; trained by
`ganctl train --preset {manifest["preset"]}`, {checkpoint["images"]:,} images seen in {checkpoint["step"]:,} steps.

![samples](samples.png)

{table}

| file | largest difference from the checkpoint's generator |
| --- | --- |
{parity}

## Use

```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("generator.onnx")
z = np.random.default_rng(0).standard_normal(({batch}, {manifest["z"]["dim"]})).astype(np.float32)
{label}images = session.run(None, {feed})[0]  # float32 [{batch}, {size}] in [0, 1]
```

{alpha}{_data_section(manifest)}## Limits

The images are synthetic. The generator reproduces the distribution of its training data only, including its gaps and
biases.
"""


def _data_section(manifest: Mapping[str, Any]) -> str:
    """Names the license and the authors of the training images, if they are known."""
    lines = [f"- {name}: {value}" for name in ("license", "attribution") if (value := manifest.get(name))]
    return "\n".join(["## Training images", "", *lines, "", ""]) if lines else ""
