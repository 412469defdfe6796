"""Data sets by name: `load_split` reads one split of the data set in `data.name`.

A custom data set is a function (settings, split) → ImageSet. Register it with `@DATASETS.register("name")`, or set
`data.name = "module:function"`.
"""

import hashlib
import json

from ganctl.training.config.registry import DATASETS
from ganctl.training.config.schema import DataSettings
from ganctl.training.data import image_folder, mnist
from ganctl.training.data.base import ImageSet, Split, check_images

DATASETS.register("folder")(image_folder.load_folder)
for _name in mnist.NAMES:
    DATASETS.register(_name)(mnist.load_mnist)


def load_split(settings: DataSettings, split: Split) -> ImageSet:
    """Reads one split of the data set `settings.name`.

    Raises:
        DataError: a file is absent (and cannot be downloaded), truncated, damaged or of another format; or a custom
            function returned an invalid ImageSet.
    """
    return check_images(DATASETS.get(settings.name)(settings, split), f"data.name = '{settings.name}', {split} images")


def data_digest(settings: DataSettings) -> str:
    """Returns a name of the data set for cache files: its own name if built in, else name and SHA-256 prefix."""
    if settings.name in mnist.NAMES:
        return settings.name
    data = load_split(settings, "train")
    digest = hashlib.sha256(json.dumps([data.images.shape, data.class_names]).encode())
    for tensor in (data.images, data.labels):
        digest.update(tensor.numpy().tobytes())
    return f"{settings.name.replace(':', '.')}-{digest.hexdigest()[:16]}"
