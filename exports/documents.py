"""Writes the files of an export that are for people: sample images, cards, and the manifest that lists all files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ganctl.exports.errors import ExportError
from ganctl.exports.formats.base import example_inputs
from ganctl.exports.manifest import file_entry
from ganctl.exports.model_card import model_card
from ganctl.files import write_file
from ganctl.manifest import CARDS, DOCUMENTS, NAME, parse_manifest
from ganctl.training.images.pictures import ENLARGEMENT, encode, tile, to_picture
from ganctl.training.images.source import GeneratorSource
from ganctl.training.models.base import Generator

_STYLES = 8  # rows of samples.png
_UNLABELED_COLUMNS = 10


def write_documents(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes the cards and the manifest of an export, also of an earlier one; its other files must be there.

    Args:
        folder: holds the model files and samples.png.
        fields: the manifest, with or without the entries of the documents.
    """
    card = model_card(fields)
    for name in CARDS:
        write_file(folder / name, card)
    documents = {name: file_entry(folder / name, name.partition(".")[2]) for name in DOCUMENTS}
    content = {**fields, "files": fields["files"] | documents}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    parse_manifest(text.encode(), NAME, ExportError)  # so that no export is written that cannot be read
    write_file(folder / NAME, text)


def draw_samples(generator: Generator, class_names: Sequence[str]) -> bytes:
    """Draws a PNG: one row per latent, one column per class."""
    classes = len(class_names) or _UNLABELED_COLUMNS
    labels = torch.arange(classes).repeat(_STYLES)
    images_per_latent = classes if generator.conditional else 1
    z, *_ = example_inputs(generator, len(labels) // images_per_latent, seed=1)
    z = z.repeat_interleave(images_per_latent, dim=0)
    images = GeneratorSource(generator, tuple(class_names)).generate(z, labels)
    return encode(to_picture(tile(images.numpy(), columns=classes), ENLARGEMENT), "png")
