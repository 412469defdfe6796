"""Renders the model card of an export from its manifest: a YAML head, and Markdown by the template card.md.jinja."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ganctl.exports.model_card import markdown
from ganctl.exports.model_card.data_sets import data_set
from ganctl.exports.model_card.head import head
from ganctl.exports.model_card.scores import class_rows, notes, scores

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_SUFFIXES = (".ts", ".onnx", ".pt2")
_IMAGES = 10  # that the code draws; one of each class if there are as many or fewer
_FOLDED = 40  # more classes than that are folded, so that the card can be read


def model_card(manifest: Mapping[str, Any]) -> str:
    """Renders the fields of a manifest, without its documents, as a model card.

    A manifest of an earlier version may lack fields; a checkpoint may lack any score.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the text is Markdown, not HTML: the template escapes by `text`
    )
    environment.filters |= {"text": markdown.text, "file_size": markdown.file_size}
    metrics, data, rows = (
        manifest["checkpoint"]["metrics"],
        data_set(manifest),
        scores(manifest["checkpoint"]["metrics"]),
    )
    classes = class_rows(manifest)
    count = min(len(classes), _IMAGES) or _IMAGES
    request = {"digits": list(range(count))} if classes else {"count": count}
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        m=manifest,
        head=head(manifest, data, rows),
        data=data,
        image=manifest["image"],
        checkpoint=manifest["checkpoint"],
        split=metrics.get("split"),
        scores=rows,
        notes=notes(metrics),
        memorisation=metrics.get("memorisation") or {},
        classes=classes,
        folded=len(classes) > _FOLDED,
        files=_files(manifest),
        gates=manifest.get("gates") or {},
        onnx=_first(manifest, "generator.onnx", ".onnx"),
        torchscript=_first(manifest, "generator.ts", ".ts"),
        pt2=_first(manifest, "generator.pt2", ".pt2"),
        count=count,
        request=json.dumps(request | {"layout": "strip", "seed": 1}),
    )


def _files(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns name, size and largest difference from the checkpoint's generator of each model file."""
    return [
        {
            "name": name,
            "bytes": entry["bytes"],
            "difference": max(manifest.get("parity", {}).get(name, {}).values(), default=None),
        }
        for name, entry in manifest["files"].items()
        if name.endswith(_SUFFIXES)
    ]


def _first(manifest: Mapping[str, Any], preferred: str, suffix: str) -> str | None:
    """Returns the file that code in the card uses: the preferred one, else another of its format, else None."""
    names = [name for name in manifest["files"] if name.endswith(suffix)]
    return preferred if preferred in names else next(iter(names), None)
