"""Head of a model card: the YAML that the Hugging Face Hub reads for its filters, and for the table of scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ganctl.exports.model_card.data_sets import DataSet
from ganctl.exports.model_card.licenses import hub_license
from ganctl.exports.model_card.scores import Score

_TASK = "unconditional-image-generation"  # the Hub has no task of its own for images of a class
_SPLITS = {"val": "validation"}  # the name that most data sets on the Hub have
_TAGS = {".ts": ("pytorch", "torchscript"), ".pt2": ("pytorch", "pt2"), ".onnx": ("onnx",)}


def head(manifest: Mapping[str, Any], data: DataSet, scores: Sequence[Score]) -> str:
    """Returns the YAML head with its two lines `---`.

    Specification: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. `license` is that of the training
    images: no other is known. A card without it is valid.
    """
    tags = [
        tag
        for suffix, tags in _TAGS.items()
        if any(name.endswith(suffix) for name in manifest["files"])
        for tag in tags
    ]
    tags += ["gan", "image-generation", "class-conditional" if manifest["conditional"] else "unconditional", "ganctl"]
    fields: dict[str, Any] = hub_license(data.license)
    fields |= {"library_name": "ganctl", "pipeline_tag": _TASK, "tags": list(dict.fromkeys(tags))}
    if data.hub_id:
        fields["datasets"] = [data.hub_id]
    if scores:
        fields["metrics"] = [score.key for score in scores]
        fields["model-index"] = [_model_index(manifest, data, scores)]
    # one line for each value, and no letter replaced by an escape sequence that can be shown as it is
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=float('inf'))}---"


def _model_index(manifest: Mapping[str, Any], data: DataSet, scores: Sequence[Score]) -> dict[str, Any]:
    metrics = manifest["checkpoint"]["metrics"]
    split = metrics.get("split")
    data_set = {"type": data.hub_id or "imagefolder", "name": data.title}
    if split:
        data_set["split"] = _SPLITS.get(split, split)
    result = {
        "task": {"type": _TASK, "name": "Image generation"},
        "dataset": data_set,
        "metrics": [{"type": each.key, "value": metrics[each.key], "name": _name(each)} for each in scores],
    }
    return {"name": f"ganctl-{manifest['model_version']}", "results": [result]}


def _name(score: Score) -> str:
    """The name of a score with the number of images and the value of real images: the Hub has no place for them."""
    facts = [f"N = {score.n}".replace("= ≤", "≤")] * (score.n != "–") + [f"real images: {score.real}"] * (
        score.real != "–"
    )
    return f"{score.name} ({'; '.join(facts)})" if facts else score.name
