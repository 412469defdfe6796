"""Data sets: `load_split` reads one split of the data set that `data.source` names.

A custom data set is a function (settings, split) → ImageSet. Register it with `@DATASETS.register("name")`, or set
`data.source = "module:function"`. Any other source is a path, which the readers recognize.
"""

import hashlib
import json

from ganctl.training.config.registry import DATASETS
from ganctl.training.config.schema import NAMED_DATA_SETS, DataSettings
from ganctl.training.data import cache, named
from ganctl.training.data.base import ImageSet, check_images
from ganctl.training.readers.tree import Split

for _name in NAMED_DATA_SETS:
    DATASETS.register(_name)(named.load_named)


def load_split(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of the data set `settings.source`.

    Raises:
        DataError: a file is absent (and cannot be downloaded), truncated, damaged or of another format; or a custom
            function returned an invalid ImageSet.
    """
    if settings.is_path:
        return cache.load_source(settings).split(split)
    return check_images(
        DATASETS.get(settings.source)(settings, split), f"data.source = '{settings.source}', {split} images"
    )


def find_license(settings: DataSettings) -> str | None:
    """Returns `data.license`, or the license that the files of the data set state; None without one."""
    if settings.license is None and settings.is_path:
        return cache.load_source(settings).record["license"] or None
    return settings.license


def data_digest(settings: DataSettings) -> str:
    """Returns a name of the data set for cache files: its own name if built in, else name and SHA-256 prefix."""
    if settings.source in NAMED_DATA_SETS:
        return settings.source
    data = load_split(settings, "train")
    digest = hashlib.sha256(json.dumps([data.images.shape, data.class_names]).encode())
    for tensor in (data.images, data.labels):
        digest.update(tensor.contiguous().numpy().data)
    return f"images-{digest.hexdigest()[:16]}"
