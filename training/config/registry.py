"""Registries of what a setting may name: built-in entries, entries of a script, and `package.module:Name`.

The registries are declared here and filled by the modules that define the entries, which a lookup imports: settings are
checked without importing a network.
"""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ganctl.training.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from ganctl.training.config.schema import DataSettings, ModelSettings
    from ganctl.training.data.base import ImageSet, Split
    from ganctl.training.models.base import Generator, ImageShape

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Generic[T]):
    """Entries of one kind by name, for one setting."""

    def __init__(self, kind: str, setting: str, package: str) -> None:
        """The modules of `package` register the built-in entries when they are imported."""
        self.kind, self.setting, self._package = kind, setting, package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that registers an entry as `name`.

        Raises:
            ValueError: the name has another entry already.
        """

        def keep(entry: Entry) -> Entry:
            if not _is_builtin(entry):
                self._load()
            taken = self._entries.get(name)
            if taken is not None and _place(taken) != _place(entry):  # a notebook's cell may run twice
                raise ValueError(f"{self.kind} '{name}' is taken by {taken!r}: choose another name")
            self._entries[name] = cast(T, entry)
            return entry

        return keep

    @contextmanager
    def registered(self, name: str, entry: T) -> Iterator[None]:
        """Registers an entry as `name` within a `with` block, also in the place of another one."""
        self._load()
        before = dict(self._entries)
        self._entries[name] = entry
        try:
            yield
        finally:
            self._entries = before

    def names(self) -> list[str]:
        """The names of all entries so far, sorted."""
        self._load()
        return sorted(self._entries)

    def accepts(self, name: str) -> bool:
        """Whether `name` has an entry, or has the form `module:Name`."""
        return ":" in name or name in self.names()

    def is_builtin(self, name: str) -> bool:
        """Whether the entry of `name` comes with ganctl."""
        self._load()
        return name in self._entries and _is_builtin(self._entries[name])

    def get(self, name: str) -> T:
        """The entry of `name`, imported where it is `module:Name`.

        Raises:
            ConfigError: there is no such entry.
        """
        self._load()
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

    def _load(self) -> None:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)


def _is_builtin(entry: object) -> bool:
    return str(getattr(entry, "__module__", "")).startswith("ganctl.")


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


DATASETS: Registry["Callable[[DataSettings, Split], ImageSet]"] = Registry(
    "data set", "data.name", "ganctl.training.data"
)
GENERATORS: Registry["Callable[[ModelSettings, ImageShape, int | None], Generator]"] = Registry(
    "generator", "model.generator", "ganctl.training.models"
)
DISCRIMINATORS: Registry["Callable[[ModelSettings, ImageShape, int | None], nn.Module]"] = Registry(
    "discriminator", "model.discriminator", "ganctl.training.models"
)
LOSSES: Registry[object] = Registry("loss", "loss.name", "ganctl.training.losses")
REGISTRIES: tuple[Registry[Any], ...] = (DATASETS, GENERATORS, DISCRIMINATORS, LOSSES)
