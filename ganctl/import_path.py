"""Cleans the import path of the commands, and reports modules that shadow other ones.

Imported before everything else; therefore it imports almost nothing.
"""

import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PACKAGE = os.path.dirname(os.path.abspath(__file__))
_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(os.__file__))


def remove_shadowing_entries() -> None:
    """Removes the current folder and the package folder of ganctl from the import path.

    `python -m` and an empty entry of PYTHONPATH put the current folder first. A folder that PYTHONPATH names stays.
    `config/registry.py` looks for `module:Name` in the current folder, after all other entries.
    """
    named, removed = _pythonpath(), ("", _current_folder(), PACKAGE)
    sys.path[:] = [entry for entry in sys.path if entry in named or entry not in removed or _holds_packages(entry)]


def find_shadow(error: BaseException) -> str | None:
    """Returns a message if `error` comes from a module that shadows another one; None otherwise."""
    for name, file in _suspects(error):
        if (shadowed := _shadowed_file(name, file)) is not None:
            folder = _folder(file)
            remedy = f"take {folder} from PYTHONPATH" if folder in _pythonpath() else f"uninstall it from {folder}"
            return f"the Python module {name}: found {file}, expected {shadowed}. Rename the first, or {remedy}."
    return None


def excepthook(kind: type[BaseException], error: BaseException, trace: "Any") -> None:
    """Prints an unhandled error; reports a shadowing module without a traceback."""
    message = find_shadow(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"Error: {message}\n")


def _suspects(error: BaseException) -> "Iterator[tuple[str, str]]":
    """Yields names and files of top-level modules that may have caused `error`."""
    names: list[str] = []
    link: BaseException | None = error
    while link is not None:
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_name == "<module>" and code.co_filename.endswith(".py"):  # failed on import: not in sys.modules
                folder, base = os.path.split(code.co_filename)
                yield os.path.basename(folder) if base == "__init__.py" else base.partition(".")[0], code.co_filename
            trace = trace.tb_next
        if isinstance(link, ImportError) and link.name:
            names.append(link.name.partition(".")[0])
        elif isinstance(link, AttributeError) and isinstance(link.obj, type(sys)):
            names.append(link.obj.__name__.partition(".")[0])
        link = link.__cause__ or link.__context__
    if isinstance(error, Exception):
        names += [name for name in sys.modules if name in sys.stdlib_module_names]
    for name in names:
        if file := getattr(sys.modules.get(name), "__file__", None):
            yield name, file


def _shadowed_file(name: str, file: str) -> str | None:
    """Returns the file that `import name` would find without the folder of `file`; None if there is no other."""
    folder = _folder(file)
    if folder not in sys.path or (name in sys.stdlib_module_names and _in_standard_library(folder)):
        return None
    later = [entry for entry in sys.path[sys.path.index(folder) + 1 :] if not _is_fallback(entry)]
    found = PathFinder.find_spec(name, later)
    return None if found is None or found.origin == file else found.origin


def _in_standard_library(folder: str) -> bool:
    """Returns whether a folder belongs to the standard library."""
    return not _holds_packages(folder) and (folder + os.sep).startswith(_STANDARD_LIBRARY + os.sep)


def _holds_packages(entry: str) -> bool:
    """Returns whether an entry of the import path holds installed packages."""
    return entry.endswith(("site-packages", "dist-packages"))


def _is_fallback(entry: str) -> bool:
    """Returns whether an entry is the current folder that `module:Name` added at the end of the import path."""
    return entry == _current_folder() and entry not in _pythonpath() and not _holds_packages(entry)


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # deleted
        return ""


def _folder(file: str) -> str:
    """Returns the entry of the import path that contains a top-level module."""
    folder, base = os.path.split(os.path.abspath(file))
    return os.path.dirname(folder) if base.startswith("__init__.") or not base else folder


def _pythonpath() -> list[str]:
    """Returns the absolute folders in PYTHONPATH."""
    return [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
