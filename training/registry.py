"""What a setting may name: the things that come with ganctl, what a script registers, or `package.module:Name`."""

import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ganctl.training.errors import ConfigError

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Generic[T]):
    """A named table of things of one kind, for one setting."""

    def __init__(self, kind: str, setting: str) -> None:
        self.kind, self.setting = kind, setting
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that makes `setting = "name"` mean what it decorates.

        Raises:
            ValueError: the name means something else already.
        """

        def keep(entry: Entry) -> Entry:
            taken = self._entries.get(name)
            if taken is not None and _place(taken) != _place(entry):  # a notebook's cell may run twice
                raise ValueError(f"{self.kind} '{name}' is taken by {taken!r}: choose another name")
            self._entries[name] = cast(T, entry)
            return entry

        return keep

    def names(self) -> list[str]:
        """What has been registered so far."""
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """What `name` means.

        Raises:
            ConfigError: there is no such thing.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            found: T = load_object(name, f"{self.setting} =")
            if not callable(found) and self.kind != "loss":
                raise ConfigError([f"{self.setting} = '{name}': found {found!r}, expected something to call."])
            return found
        close = difflib.get_close_matches(name, self._entries, n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            [f"{self.setting} = '{name}': no such {self.kind}; there are {', '.join(self.names())}, and module:Name for"
             f" your own (a name that only a script registers is unknown to other commands).{hint}"]
        )  # fmt: skip


def _place(entry: object) -> tuple[object, object]:
    """Where something was defined."""
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", entry)


def load_object(name: str, setting: str) -> Any:
    """What `package.module:Name` means. Modules are looked for in the current folder, too, after all other places.

    Raises:
        ConfigError: there is no such module or no such name in it, or its import fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigError([f"{setting} {name}: expected module:Name, such as my_package.my_module:MyClass."])
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            [
                f"{setting} {name}: no module {error.name!r} in {here} or installed{_taken(module_name)}; check the"
                " name, or PYTHONPATH."
            ]
        ) from error
    except Exception as error:
        raise ConfigError([f"{setting} {name}: importing {module_name} fails: {error!r}."]) from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError([f"{setting} {name}: {module.__file__ or module_name} has no {attribute!r}.{hint}"])
    return getattr(module, attribute)


def _taken(module_name: str) -> str:
    """Where the package of a module that was not found comes from, if there is such a package."""
    package = sys.modules.get(module_name.partition(".")[0])
    place = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", [])), None)
    return f" ({package.__name__} is {place})" if package is not None and place is not None else ""
