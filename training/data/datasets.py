"""Data sets by name: `load_split` reads one split of what `data.name` names.

A data set of one's own is a function (settings, split) that returns an ImageSet: registered by
`@DATASETS.register("name")`, or named as `data.name = "module:function"`.
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
    """Reads one split of the data set that `settings` names.

    Raises:
        DataError: a file is absent (and cannot be downloaded), truncated, foreign or damaged; or what somebody's own
            function gave is no set of images.
    """
    return check_images(DATASETS.get(settings.name)(settings, split), f"data.name = '{settings.name}', {split} images")


def data_digest(settings: DataSettings) -> str:
    """What tells this data set from others, for the names of files that are cached by it."""
    if settings.name in mnist.NAMES:
        return settings.name
    data = load_split(settings, "train")
    digest = hashlib.sha256(json.dumps([data.images.shape, data.class_names]).encode())
    for numbers in (data.images, data.labels):
        digest.update(numbers.numpy().tobytes())
    return f"{settings.name.replace(':', '.')}-{digest.hexdigest()[:16]}"
