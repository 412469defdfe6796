"""The import path of the commands: no file of the current folder, or of PYTHONPATH, may shadow another module silently.

Imported before everything else, and so imports next to nothing itself.
"""

import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # typing's, without its import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PACKAGE = os.path.dirname(os.path.abspath(__file__))
_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(os.__file__))


def arrange() -> None:
    """Takes the current folder, and ganctl's own one, from the import path, where they would hide other modules.

    `python -m` and an empty entry of PYTHONPATH put the current folder first; a folder that PYTHONPATH names stays.
    `module:Name` is looked for in the current folder, after all others (`training/registry.py`).
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it has been deleted
        here = ""
    kept = _named()
    sys.path[:] = [
        entry for entry in sys.path if entry in kept or entry not in ("", here, PACKAGE) or _holds_packages(entry)
    ]


def find_shadow(error: BaseException) -> str | None:
    """A message, where `error` comes from a module that was imported in the place of another one of the same name."""
    for name, file in _suspects(error):
        if (hidden := _hidden(name, file)) is not None:
            return _message(name, file, hidden)
    return None


def excepthook(kind: type[BaseException], error: BaseException, trace: "Any") -> None:
    """Tells an error as `find_shadow` does, where nothing else handles it."""
    message = find_shadow(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"Error: {message}\n")


def _suspects(error: BaseException) -> "Iterator[tuple[str, str]]":
    """Names and files of top-level modules that `error` may come from."""
    names: list[str] = []
    link: BaseException | None = error
    while link is not None:
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_name == "<module>" and code.co_filename.endswith(".py"):  # no longer in sys.modules
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


def _hidden(name: str, file: str) -> str | None:
    """The file that `import name` would have taken, were the folder of `file` not on the path before it."""
    folder = _folder(file)
    own = name in sys.stdlib_module_names and _is_pythons(folder)
    if own or folder not in sys.path:
        return None
    later = [entry for entry in sys.path[sys.path.index(folder) + 1 :] if not _is_last_resort(entry)]
    found = PathFinder.find_spec(name, later)
    return None if found is None or found.origin == file else found.origin


def _is_pythons(folder: str) -> bool:
    """Checks for a folder of the standard library."""
    return not _holds_packages(folder) and (folder + os.sep).startswith(_STANDARD_LIBRARY + os.sep)


def _holds_packages(entry: str) -> bool:
    """Checks for an entry of the import path that holds installed packages."""
    return entry.endswith(("site-packages", "dist-packages"))


def _is_last_resort(entry: str) -> bool:
    """Checks for the current folder, added to the import path for `module:Name` alone."""
    try:
        return entry == os.getcwd() and entry not in _named() and not _holds_packages(entry)
    except FileNotFoundError:
        return False


def _message(name: str, found: str, expected: str) -> str:
    folder = _folder(found)
    if folder not in _named():
        ways = f"Rename or uninstall the first: {folder} comes first on Python's import path."
    else:
        ways = f"Rename the first, or take {folder} from PYTHONPATH."
    return f"the Python module {name}: found {found}, expected {expected}. {ways}"


def _folder(file: str) -> str:
    """The entry of the import path that a top-level module's file belongs to."""
    folder, base = os.path.split(os.path.abspath(file))
    return os.path.dirname(folder) if base.startswith("__init__.") or not base else folder


def _named() -> list[str]:
    """The folders that PYTHONPATH names."""
    return [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
