"""From a folder of small images to a verified image generator behind HTTP.

`import ganctl` imports nothing but this file; each public name is imported when it is first used.
"""

import importlib

TYPE_CHECKING = False  # typing's, without its import
if TYPE_CHECKING:
    from typing import Any

    from ganctl.serving.client import AsyncClient, Client
    from ganctl.training.callback import FINISHED, Callback
    from ganctl.training.callbacks import default_callbacks
    from ganctl.training.data import DATASETS, ImageSet
    from ganctl.training.losses import LOSSES
    from ganctl.training.models import DISCRIMINATORS, GENERATORS, Generator
    from ganctl.training.settings import configure
    from ganctl.training.sources import GeneratorSource, load_generator
    from ganctl.training.trainer import Trainer

__version__ = "0.2.0.dev0"

_MODULES = {
    "ganctl.serving.client": ("AsyncClient", "Client"),
    "ganctl.training.callback": ("FINISHED", "Callback"),
    "ganctl.training.callbacks": ("default_callbacks",),
    "ganctl.training.data": ("DATASETS", "ImageSet"),
    "ganctl.training.losses": ("LOSSES",),
    "ganctl.training.models": ("DISCRIMINATORS", "GENERATORS", "Generator"),
    "ganctl.training.settings": ("configure",),
    "ganctl.training.sources": ("GeneratorSource", "load_generator"),
    "ganctl.training.trainer": ("Trainer",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "DATASETS", "DISCRIMINATORS", "FINISHED", "GENERATORS", "LOSSES", "AsyncClient", "Callback", "Client", "Generator",
    "GeneratorSource", "ImageSet", "Trainer", "configure", "default_callbacks", "load_generator",
]  # fmt: skip


def __getattr__(name: str) -> "Any":
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
