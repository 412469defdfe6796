"""The user's cache: files that save time, and that no command needs.

It is `$XDG_CACHE_HOME/ganctl`, else `~/.cache/ganctl`; any file in it may be deleted at any time. There may be no such
folder (no home), it may belong to another user, be read-only or full, and its files may be damaged: then a result is
computed again.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ganctl.files import write_file

T = TypeVar("T")

_log = logging.getLogger(__name__)


def cache_dir() -> Path | None:
    """The folder of the cache, which may not exist yet; None where the user has no place for one.

    The XDG Base Directory Specification ignores an XDG_CACHE_HOME that is empty or relative. Use `read_cached` and
    `write_cached`: a path does not promise that its folder can be read or written.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "ganctl"
    try:
        home = Path.home()
        usable = home.is_absolute() and home.is_dir() and os.environ.get("HOME") != ""
    except (RuntimeError, OSError):  # HOME is unset and the system does not list this user; or it is out of reach
        return None
    return home / ".cache" / "ganctl" if usable else None


def read_cached(
    path: Path | None, read: Callable[[Path], T], announce: Callable[[str], None] = _log.warning
) -> T | None:
    """`read(path)`; None where there is no cache, no such file, or no sound one.

    Args:
        path: a file below `cache_dir()`; None where there is no cache.
        read: raises OSError where the file cannot be read, any other exception where its content is damaged.
        announce: told of a damaged file.
    """
    if path is None:
        return None
    try:
        return read(path)
    except OSError as error:
        _log.debug("%s: %s", path, error.strerror or error)
    except Exception as error:  # a damaged file may raise anything, and is never needed
        announce(f"{path} is damaged ({error}): it is computed again")
    return None


def write_cached(path: Path | None, content: bytes) -> str | None:
    """Writes a file of the cache, whole or not at all.

    Returns:
        The reason why the file could not be written; None where it was.
    """
    if path is None:
        return "no folder for a cache: HOME names no home, and XDG_CACHE_HOME is no absolute path"
    try:
        write_file(path, content)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror or error}"
    return None
