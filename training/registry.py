"""Named things that a setting may name, and `module:Name` for one's own."""

import importlib
import sys
from pathlib import Path
from typing import Any

from training.errors import ConfigError


def load_object(name: str, setting: str) -> Any:
    """What `package.module:Name` means; the current folder counts as a place of modules."""
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError([f"{setting} {name}: expected module:Name."])
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"{setting} {name}: {error}."]) from error
