"""Trains, evaluates, exports and serves generators of small images.

`import ganctl` imports only this file; each public name is imported when it is first used.
"""

import importlib

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from typing import Any

    from ganctl.api.generator import ImageGenerator
    from ganctl.api.images import Encoding, GeneratedImages
    from ganctl.api.loading import load
    from ganctl.serving.client.client import AsyncClient, Client
    from ganctl.training.callbacks import default_callbacks
    from ganctl.training.callbacks.base import FINISHED, Callback
    from ganctl.training.config.registry import DATASETS, DISCRIMINATORS, GENERATORS, LOSSES
    from ganctl.training.data.base import ImageSet
    from ganctl.training.images.source import GeneratorSource, load_generator
    from ganctl.training.loop.recipe import configure
    from ganctl.training.loop.trainer import Trainer
    from ganctl.training.models.base import Discriminator, Generator

__version__ = "0.2.0.dev0"

_MODULES = {
    "ganctl.api.generator": ("ImageGenerator",),
    "ganctl.api.images": ("Encoding", "GeneratedImages"),
    "ganctl.api.loading": ("load",),
    "ganctl.serving.client.client": ("AsyncClient", "Client"),
    "ganctl.training.callbacks.base": ("FINISHED", "Callback"),
    "ganctl.training.callbacks": ("default_callbacks",),
    "ganctl.training.config.registry": ("DATASETS", "DISCRIMINATORS", "GENERATORS", "LOSSES"),
    "ganctl.training.data.base": ("ImageSet",),
    "ganctl.training.models.base": ("Discriminator", "Generator"),
    "ganctl.training.loop.recipe": ("configure",),
    "ganctl.training.images.source": ("GeneratorSource", "load_generator"),
    "ganctl.training.loop.trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "DATASETS", "DISCRIMINATORS", "FINISHED", "GENERATORS", "LOSSES", "AsyncClient", "Callback", "Client",
    "Discriminator", "Encoding", "GeneratedImages", "Generator", "GeneratorSource", "ImageGenerator", "ImageSet",
    "Trainer", "configure", "default_callbacks", "load", "load_generator",
]  # fmt: skip


def __getattr__(name: str) -> "Any":
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
