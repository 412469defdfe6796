"""Cache folder of the user: reads and writes files that only save time.

The folder is `$XDG_CACHE_HOME/ganctl`, else `~/.cache/ganctl`. Any file in it may be deleted at any time. If the folder
is absent, foreign, read-only or full, or a file is damaged, the result is computed again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ganctl.files import write_file

T = TypeVar("T")

_log = logging.getLogger(__name__)


def cache_path(*parts: str) -> Path | None:
    """Returns a path below the cache folder, which may not exist yet; None without a home and an XDG_CACHE_HOME.

    An empty or relative XDG_CACHE_HOME is ignored (XDG Base Directory Specification). The folder may be unreadable:
    use `read_cached` and `write_cached`.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base.joinpath("ganctl", *parts)
    try:
        home = Path.home()
        usable = home.is_absolute() and home.is_dir() and os.environ.get("HOME") != ""
    except (RuntimeError, OSError):  # HOME is unset and the user is unknown to the system, or it cannot be accessed
        return None
    return home.joinpath(".cache", "ganctl", *parts) if usable else None


def keyed_path(folder: str, key: object, suffix: str) -> Path | None:
    """Returns the path of the result for `key`, JSON values, in a folder of the cache; None as for `cache_path`."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_path(folder, f"{digest[:32]}{suffix}")


def read_cached(
    path: Path | None, read: Callable[[Path], T], announce: Callable[[str], None] = _log.warning
) -> T | None:
    """Returns `read(path)`; None if there is no cache, or the file is absent or damaged.

    Args:
        path: a `cache_path`; None if there is no cache.
        read: raises OSError if the file cannot be read, any other exception if its content is damaged.
        announce: receives a message about a damaged file.
    """
    if path is None:
        return None
    try:
        return read(path)
    except OSError as error:
        _log.debug("%s: %s", path, error.strerror or error)
    except Exception as error:  # a damaged file may raise any error, and the result can be computed again
        announce(f"{path} is damaged ({error}). It is computed again")
    return None


def write_cached(path: Path | None, content: bytes | Iterator[memoryview]) -> str | None:
    """Writes a file of the cache atomically.

    Returns:
        The reason if the file could not be written, else None.
    """
    if path is None:
        return "no cache folder: HOME is no folder, and XDG_CACHE_HOME is no absolute path"
    try:
        write_file(path, content)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror or error}"
    return None
